"""Writes both dashboards where the chart takes them from: `python -m charts.dashboards`."""

from charts.dashboards.documents import FOLDER, documents


def main() -> None:
    """Write every file."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in documents().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
