import numpy as np
import pytest

from concertina_api.errors import InvalidJob
from concertina_trainer.examples.corpus import read_corpus


def write(folder, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"<{name}>")


def text(tokens):
    return bytes(tokens).decode()


def test_files_are_read_in_order_and_held_out_whole(tmp_path):
    names = [f"{folder}/m{i:02}.py" for folder in ("a", "b") for i in range(20)]
    write(tmp_path, names)
    training, validation = map(text, read_corpus(tmp_path))
    held_out = [name for name in names if f"<{name}>" in validation]
    assert 1 <= len(held_out) <= 8
    assert validation == "".join(f"<{name}>" for name in held_out)
    assert training == "".join(f"<{name}>" for name in names if name not in held_out)


def test_what_is_no_source_of_the_library_is_left_out(tmp_path):
    kept = [f"kept/m{i}.py" for i in range(40)]
    left_out = ["test/x.py", "lib/tests/x.py", "site-packages/x.py", "encodings/x.py", "notes.txt"]
    write(tmp_path, [*kept, *left_out])
    everything = "".join(map(text, read_corpus(tmp_path)))
    assert all(f"<{name}>" in everything for name in kept)
    assert not any(f"<{name}>" in everything for name in left_out)


def test_a_folder_without_enough_sources_is_refused(tmp_path):
    with pytest.raises(InvalidJob, match=r"too few \*\.py files"):
        read_corpus(tmp_path)


def test_the_standard_library_is_a_corpus():
    training, validation = read_corpus()
    assert training.dtype == np.uint8
    assert len(training) > 4_000_000
    assert 0.02 < len(validation) / len(training) < 0.2
    assert read_corpus() is read_corpus()
