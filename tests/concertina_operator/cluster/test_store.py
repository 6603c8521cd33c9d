from concertina_operator.cluster.store import Key, Store

A, B = Key("ml", "a"), Key("ml", "b")


def test_keeps_the_newest_version_of_each_object():
    store = Store()
    assert store.put(A, "new", version=5)
    assert not store.put(A, "old", version=4)
    assert not store.put(A, "same", version=5)
    assert (store.get(A), store.version(A)) == ("new", 5)
    assert store.version(B) is None


def test_an_answer_to_a_write_is_known_before_the_watch_tells():
    store = Store()
    store.watched(4)
    assert store.put_answer(A, "made", version=5)
    assert store.get(A) == "made"
    assert not store.put(A, "made", version=5)


def test_an_answer_that_the_watch_has_overtaken_is_no_news():
    store = Store()
    store.put(A, "made", version=5)
    store.remove(A)
    store.watched(6)
    assert not store.put_answer(A, "made", version=5)
    assert store.get(A) is None


def test_forgets_what_a_list_does_not_have_unless_it_is_newer_than_the_list():
    store = Store()
    store.put(A, "gone", version=5)
    store.put(B, "made after the list", version=9)
    assert store.remove_unlisted([], version=7) == ((A, "gone"),)
    assert store.all_keys() == (B,)


def test_after_a_state_was_restored_lower_versions_are_news():
    store = Store()
    store.put(A, "lost", version=8)
    store.watched(9)
    assert store.newest == 9
    store.begin_anew()
    assert store.put_answer(B, "made", version=6)
    assert store.put(A, "restored", version=5)
    assert (store.get(A), store.newest) == ("restored", 6)
