"""What a download leaves in the place of a file: its bytes, and what the message calls it."""

STAND_INS = {
    "page": (b"<html><body>404 Not Found</body></html>\n\n\n\n\n", "it is a web page"),
    "page with a mark": (b"\xef\xbb\xbf\r\n<!DOCTYPE html>\r\n<html>", "it is a web page"),
    "error of a server": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "it is a web page"),
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4" * 64 + b"\nsize 12345\n",
        "it is a Git LFS pointer",
    ),
    "answer of a server": (b'{"message": "Not Found",\n "status": "404"}', "it is JSON, as a server answers"),
    "empty": (b"", "it is empty"),
}
