"""The dashboards of the chart as typed definitions; `python -m charts.dashboards` writes them as JSON.

fleet*.py and job*.py say what is on a dashboard, annotations.py which events it marks, panels.py and
looks.py how a panel looks, frame.py what is around them. Pure but for __main__.py.
"""
