# A program of i386 that gives a file away by lchown32, looks at it by stat64 and by stat, and says its ids by the calls of
# 16 bits: it must see what everybody sees. Written byte by byte, because nothing here compiles for i386.
import os, struct, subprocess

BASE = 0x08048000
CALLS = [
    (198, "path", 1234, 40000),  # lchown32
    (195, "path", "new", 0),  # stat64
    (106, "path", "old", 0),  # stat, with ids of 16 bits
    (23, 33, 0, 0),  # setuid, of 16 bits
    (24, 0, 0, 0),  # getuid, of 16 bits
]
NEW, OLD, IDS = 96, 64, 4

def program():
    headers = 52 + 32
    code = b""
    size = sum(3 * 5 + 5 + 2 for _ in CALLS) + 6 + 22 + 9
    data = BASE + headers + size
    places = {"new": data, "old": data + NEW, "path": data + NEW + OLD + IDS}
    word = lambda value: struct.pack("<I", places.get(value, value) if isinstance(value, str) else value)
    for call, first, second, third in CALLS:
        # mov ebx, ecx, edx, eax; int 0x80
        code += b"\xbb" + word(first) + b"\xb9" + word(second) + b"\xba" + word(third) + b"\xb8" + word(call) + b"\xcd\x80"
    code += b"\xa3" + word(data + NEW + OLD) + b"\x90"  # mov [ids], eax
    code += b"\xbb" + word(1) + b"\xb9" + word(data) + b"\xba" + word(NEW + OLD + IDS) + b"\xb8" + word(4) + b"\xcd\x80"
    code += b"\xb8" + word(1) + b"\x31\xdb" + b"\xcd\x80"  # exit(0)
    assert len(code) == size, (len(code), size)
    body = code + bytes(NEW + OLD + IDS) + b"/i386-file\0"
    length = headers + len(body)
    elf = b"\x7fELF\1\1\1" + bytes(9) + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, BASE + headers, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    return elf + struct.pack("<IIIIIIII", 1, 0, BASE, BASE, length, length, 7, 4096) + body

open("/i386-file", "w").close()
open("/i386", "wb").write(program())
os.chmod("/i386", 0o755)
said = subprocess.run(["/i386"], stdout=subprocess.PIPE, check=True).stdout
new, old, ids = said[:NEW], said[NEW : NEW + OLD], said[NEW + OLD :]
found = os.stat("/i386-file")
assert (found.st_uid, found.st_gid) == (1234, 40000), found
mode, links, uid, gid = struct.unpack_from("<4I", new, 16)
assert (mode, links, uid, gid) == (found.st_mode, 1, 1234, 40000), new
assert struct.unpack_from("<Q", new, 88)[0] == found.st_ino
mode, links, uid, gid = struct.unpack_from("<4H", old, 8)
assert (mode, links, uid, gid) == (found.st_mode & 0xFFFF, 1, 1234, 40000), old
assert struct.unpack("<I", ids)[0] == 33, ids
