from tests.concertina_operator.cluster import FakeCluster


def test_a_job_starts_grows_with_its_batch_and_finishes():
    cluster = FakeCluster()
    cluster.settle()
    assert cluster.members == ["tiny-lm-0"]
    assert cluster.trains
    cluster.ask(64)
    cluster.settle()
    assert cluster.members == ["tiny-lm-0", "tiny-lm-1"]
    cluster.now += 60
    cluster.ask(128)
    cluster.settle()
    assert cluster.members == ["tiny-lm-0", "tiny-lm-1", "tiny-lm-2", "tiny-lm-3"]
    assert cluster.job.status.resizes == 2
    assert cluster.job.status.last_resize.to_world_size == 4
    cluster.finish()
    cluster.settle()
    assert cluster.over
    assert cluster.job.status.state == "Completed"
