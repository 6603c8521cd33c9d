from concertina_operator.cluster.buckets import Buckets


def test_a_burst_is_free_and_then_one_token_comes_at_a_time():
    buckets = Buckets(burst=3, seconds_per_token=5.0)
    assert [buckets.take("a", now=0.0) for _ in range(5)] == [0, 0, 0, 5, 5]
    assert buckets.take("a", now=4.0) == 1
    assert [buckets.take("a", now=5.0) for _ in range(2)] == [0, 5]


def test_one_that_takes_all_tokens_leaves_the_others_theirs():
    buckets = Buckets(burst=1, seconds_per_token=5.0)
    assert [buckets.take(key, now=0.0) for key in ("a", "a", "b")] == [0, 5, 0]


def test_a_bucket_never_holds_more_than_a_burst():
    buckets = Buckets(burst=2, seconds_per_token=5.0)
    buckets.take("a", now=0.0)
    assert [buckets.take("a", now=1000.0) for _ in range(3)] == [0, 0, 5]


def test_buckets_that_are_full_again_take_no_room():
    buckets = Buckets(burst=2, seconds_per_token=5.0)
    for number in range(20_001):
        buckets.take(number, now=number)
    assert len(buckets) < 10_001
