"""What lies under a file's name and is none is never opened: it would keep ComfyUI waiting for ever."""

import os
import socket

import pytest

from memo_modules.files.regular_files import NotRegularError, is_regular, open_regular, read_regular


@pytest.mark.skipif(os.name != "posix", reason="there are no named pipes")
@pytest.mark.parametrize("linked", [False, True])
def test_a_named_pipe_is_refused_at_once(tmp_path, linked):
    path = tmp_path / "model.safetensors"
    os.mkfifo(path)
    if linked:
        path = tmp_path / "link"
        path.symlink_to("model.safetensors")
    assert not is_regular(path)
    with pytest.raises(NotRegularError, match="named pipe"):
        open_regular(path)


@pytest.mark.skipif(os.name != "posix", reason="there are no devices")
@pytest.mark.parametrize("path", ["/dev/zero", "/dev/tty"])
def test_a_device_is_refused(tmp_path, path):
    (tmp_path / "model.pt").symlink_to(path)
    assert not is_regular(tmp_path / "model.pt")
    with pytest.raises(OSError):
        open_regular(tmp_path / "model.pt")


@pytest.mark.skipif(os.name != "posix", reason="sockets have no names in folders")
def test_a_socket_is_refused(tmp_path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        assert not is_regular(tmp_path / "s")
        with pytest.raises(OSError):
            open_regular(tmp_path / "s")


def test_a_folder_is_refused(tmp_path):
    assert not is_regular(tmp_path)
    with pytest.raises((IsADirectoryError, PermissionError)):  # the second under Windows
        open_regular(tmp_path)


def test_a_file_is_read_as_far_as_asked(tmp_path):
    (tmp_path / "config.json").write_bytes(b"12345")
    assert is_regular(tmp_path / "config.json")
    assert read_regular(tmp_path / "config.json", 3) == b"123"
    with open_regular(tmp_path / "config.json") as file:
        assert file.read() == b"12345" and not os.get_inheritable(file.fileno())
