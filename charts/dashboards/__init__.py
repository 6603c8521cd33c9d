"""The dashboards of the chart as typed definitions; `python -m charts.dashboards` writes them as JSON.

fleet.py and job.py say what is on a dashboard, panels.py how a panel looks, frame.py what every
dashboard has around its panels. Pure but for __main__.py.
"""
