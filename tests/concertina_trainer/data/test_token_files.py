import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from concertina_api.errors import InvalidJob
from concertina_trainer.data.token_files import Windows, evenly_spaced, token_file


def write(path, ids):
    np.asarray(ids, dtype="<u2").tofile(path)
    return path


def test_a_file_is_read_as_windows_that_follow_each_other(tmp_path):
    path = write(tmp_path / "train.bin", range(1000, 1021))
    windows = Windows(token_file(path, vocabulary=50_257), context=5, vocabulary=50_257)
    assert len(windows) == 4
    assert windows[0].tolist() == [1000, 1001, 1002, 1003, 1004, 1005]
    assert windows[3].tolist() == [1015, 1016, 1017, 1018, 1019, 1020]
    assert windows[0].dtype == torch.int64


@settings(deadline=None, max_examples=60)
@given(num_tokens=st.integers(2, 200), context=st.integers(1, 30))
def test_an_epoch_sees_each_token_once_as_a_target(num_tokens, context):
    if num_tokens <= context:
        return
    windows = Windows(np.arange(num_tokens), context=context, vocabulary=num_tokens)
    targets = torch.cat([windows[i][1:] for i in range(len(windows))]).tolist()
    assert targets == list(range(1, len(windows) * context + 1))
    assert num_tokens - 1 - len(targets) < context


@pytest.mark.parametrize("index", [-1, 4, 10**9])
def test_an_index_outside_is_refused(index):
    windows = Windows(np.arange(21), context=5, vocabulary=21)
    with pytest.raises(IndexError, match=f"window {index} of 4"):
        windows[index]


@pytest.mark.parametrize(
    ("content", "want"),
    [
        pytest.param(b"", "0 bytes", id="empty"),
        pytest.param(b"abc", "3 bytes", id="cut"),
        pytest.param(b"\xff\xff\x00\x00", "id 65535.*ends at 50257", id="another format"),
    ],
)
def test_a_file_that_is_no_token_file_is_refused(tmp_path, content, want):
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(InvalidJob, match=want):
        token_file(tmp_path / "x.bin", vocabulary=50_257)


def test_a_file_that_is_absent_is_named(tmp_path):
    with pytest.raises(InvalidJob, match=r"none\.bin does not exist"):
        token_file(tmp_path / "none.bin", vocabulary=10)


def test_an_id_outside_the_vocabulary_is_found_wherever_it_is():
    tokens = np.zeros(100, dtype=np.uint16)
    tokens[57] = 300
    windows = Windows(tokens, context=10, vocabulary=256)
    assert windows[4].sum() == 0
    with pytest.raises(InvalidJob, match=r"window 5 holds id 300; .* ends at 256"):
        windows[5]


def test_too_few_tokens_for_one_window_are_refused():
    with pytest.raises(InvalidJob, match="5 tokens hold no window of context 5"):
        Windows(np.arange(5), context=5, vocabulary=5)


@pytest.mark.parametrize(
    ("num_tokens", "number", "want_len"),
    [
        pytest.param(10_000, 20, 20, id="fits"),
        pytest.param(100, 20, 9, id="no more than fit without overlap"),
        pytest.param(100, 1, 1, id="one"),
    ],
)
def test_evaluation_windows_are_spread_over_all_tokens(num_tokens, number, want_len):
    tokens = np.arange(num_tokens)
    windows = evenly_spaced(tokens, number=number, context=10, vocabulary=num_tokens)
    assert len(windows) == want_len
    starts = [windows[i][0].item() for i in range(len(windows))]
    assert starts == [i * (starts[1] if want_len > 1 else 0) for i in range(want_len)]
    assert starts[-1] + (starts[1] if want_len > 1 else num_tokens) + 10 >= num_tokens
