"""A token file with anything in it: InvalidJob, or windows of ids within the vocabulary."""

from hypothesis import strategies as st

from concertina_api.errors import InvalidJob
from concertina_trainer.data.token_files import Windows, token_file
from tests.fuzzing import LENGTHS, fuzz, refused

VOCABULARY = 300


@LENGTHS
def test_a_file_is_read_or_invalid(tmp_path, examples):
    file = tmp_path / "tokens.bin"
    low = st.lists(st.integers(0, 310), max_size=40).map(
        lambda ids: b"".join(number.to_bytes(2, "little") for number in ids)
    )

    def check(content):
        file.write_bytes(content)

        def windows():
            return Windows(
                token_file(file, vocabulary=VOCABULARY), context=4, vocabulary=VOCABULARY
            )

        read, _ = refused(windows, error=InvalidJob)
        for index in range(len(read) if read is not None else 0):
            assert int(read[index].max()) < VOCABULARY
        assert file.read_bytes() == content

    fuzz(check, low | st.binary(max_size=80), examples=examples)
