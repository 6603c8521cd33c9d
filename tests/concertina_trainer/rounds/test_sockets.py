import fcntl
import os
import socket
import threading

from concertina_trainer.rounds import sockets
from tests import worlds


def test_breaking_off_ends_a_blocked_read_and_spares_listeners_and_strangers():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        stranger = socket.create_connection(("127.0.0.1", port))
        stranger_peer, _ = listener.accept()
        before = sockets.connections()
        ours = socket.create_connection(("127.0.0.1", port))
        ours_peer, _ = listener.accept()
        opened = sockets.connections() - before
        received = []
        reader = threading.Thread(target=lambda: received.append(ours.recv(1)))
        reader.start()

        ended = sockets.shut_down(opened)

        reader.join(30)
        assert received == [b""]
        assert ended == 2
        assert sockets.connections() >= {c for c in before if c[0] == stranger.fileno()}
        stranger.sendall(b"x")
        assert stranger_peer.recv(1) == b"x"
        for connection in (stranger, stranger_peer, ours, ours_peer):
            connection.close()
        assert sockets.shut_down(opened) == 0


def test_looking_for_sockets_leaves_the_locks_of_files_alone(tmp_path):
    with (tmp_path / "data").open("w") as data:
        fcntl.lockf(data, fcntl.LOCK_EX)
        sockets.connections()
        taken = worlds.spawn(lock, tmp_path / "data")
        taken.join(60)
        assert taken.exitcode == HELD


HELD = 7


def lock(path):
    with path.open("w") as data:
        try:
            fcntl.lockf(data, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os._exit(HELD)
