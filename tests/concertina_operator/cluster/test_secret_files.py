import pytest

from concertina_operator.cluster.secret_files import Certificate, TokenFile, UnusableFile


@pytest.mark.parametrize(
    ("content", "want"),
    [
        pytest.param(None, "No such file or directory", id="missing"),
        pytest.param("", "it is empty", id="empty"),
        pytest.param(" \n", "it is empty", id="blank"),
        pytest.param("one two", "more than one word", id="two words"),
        pytest.param("gr\u00fcn", "not ASCII", id="not ASCII"),
    ],
)
def test_a_token_file_that_cannot_be_used_is_told_by_its_name(tmp_path, content, want):
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(UnusableFile, match=f"{path}: {want}"):
        TokenFile(path)


@pytest.mark.parametrize(
    ("authorization", "want"),
    [
        pytest.param("Bearer s3cret", True, id="the token"),
        pytest.param("bearer  s3cret ", True, id="written otherwise"),
        pytest.param("Bearer s3cre", False, id="a part of it"),
        pytest.param("Bearer s3crets", False, id="more than it"),
        pytest.param("Bearer ", False, id="nothing"),
        pytest.param("", False, id="no header"),
        pytest.param("Basic s3cret", False, id="another scheme"),
        pytest.param("s3cret", False, id="no scheme"),
        pytest.param("Bearer s3cr\udce9t", False, id="bytes that are no text"),
    ],
)
def test_only_who_has_the_token_is_admitted(tmp_path, authorization, want):
    path = tmp_path / "token"
    path.write_text("s3cret\n")
    assert TokenFile(path).admits(authorization) is want


def test_a_token_is_read_anew_and_one_that_is_gone_admits_nobody(tmp_path):
    path = tmp_path / "token"
    path.write_text("old")
    token = TokenFile(path)
    path.write_text("new")
    assert token.admits("Bearer new")
    assert not token.admits("Bearer old")
    path.write_text("")
    assert not token.admits("Bearer new")
    assert not token.admits("Bearer ")
    path.unlink()
    assert not token.admits("Bearer new")
    path.write_text("newer")
    assert token.admits("Bearer newer")


@pytest.mark.parametrize(
    ("certificate", "key", "want"),
    [
        pytest.param(None, "x", "tls.crt: No such file", id="no certificate"),
        pytest.param("x", None, "tls.key: No such file", id="no key"),
        pytest.param("", "x", "tls.crt: it is empty", id="an empty certificate"),
        pytest.param("x", "x", "tls.crt with key .*tls.key: ", id="no certificate at all"),
    ],
)
def test_tls_files_that_cannot_be_used_are_told_by_their_names(tmp_path, certificate, key, want):
    paths = {"cert_file": tmp_path / "tls.crt", "key_file": tmp_path / "tls.key"}
    for path, content in zip(paths.values(), (certificate, key), strict=True):
        if content is not None:
            path.write_text(content)
    with pytest.raises(UnusableFile, match=want):
        Certificate(**paths)
