# What packages do with ids, owners and devices while they are installed, one check each. The arguments are the names of
# those that cannot pass where this runs: one of them that passes is a failure, too.
cannot=" $* "
failures=0
check() {
    name=$1
    shift
    if out=$("$@" 2>&1); then passed=yes; else passed=no; fi
    case "$passed $cannot" in
    yes*" $name "*) echo "FAILED $name: it passes" ;;
    yes*) echo "ok $name" && return ;;
    no*" $name "*) echo "cannot $name" && return ;;
    no*) echo "FAILED $name: $out" ;;
    esac
    failures=$((failures + 1))
}
sh_() { bash -ec "$1"; }
py() { python3 -c "$1"; }

check adduser sh_ 'adduser --disabled-password --gecos "" ann && test "$(stat -c %U /home/ann)" = ann'
check useradd sh_ 'useradd -m bob && test "$(stat -c %U:%G /home/bob)" = bob:bob'
check chown sh_ 'touch /f && chown ann:bob /f && test "$(stat -c %U:%G /f)" = ann:bob'
check chown-one-id py 'import os; os.chown("/f", 12, 13); os.chown("/f", -1, 99); s = os.stat("/f"); assert (s.st_uid, s.st_gid) == (12, 99)'
check fchown py 'import os; f = os.open("/f", os.O_RDWR); os.fchown(f, 1, 2); s = os.fstat(f); assert (s.st_uid, s.st_gid) == (1, 2)'
check lchown py 'import os; os.symlink("nowhere", "/l"); os.lchown("/l", 3, 4); s = os.lstat("/l"); assert (s.st_uid, s.st_gid) == (3, 4)'
check fchown-of-nothing py 'import os
try: os.fchown(99, 1, 1)
except OSError as error: assert error.errno == 9, error'
check chown-takes-setuid-away sh_ 'cp /bin/true /t; chmod 6755 /t; chown 5:5 /t; test "$(stat -c %a /t)" = 755'
check chown-is-refused sh_ 'touch /g; ! su ann -c "chown ann /g" && su ann -c "touch /tmp/own; chgrp ann /tmp/own" && ! su ann -c "chgrp bob /tmp/own"'
check su sh_ 'test "$(su ann -c "id -u")" = "$(id -u ann)"'
check su-makes-files sh_ 'su ann -c "cd; touch x; mkdir y; ln -s x z; mkfifo p"; for i in x y z p; do test "$(stat -c %U /home/ann/$i)" = ann; done'
check setgroups py 'import os; os.setgroups([7, 8]); assert sorted(os.getgroups()) == [7, 8]'
check setpriv sh_ 'test "$(setpriv --reuid ann --regid ann --clear-groups id -un)" = ann'
check keepcaps sh_ 'test "$(setpriv --reuid ann --regid bob --init-groups id -gn)" = bob'
check no-way-back py 'import os
os.setresgid(9, 9, 9); os.setresuid(9, 9, 9)
try: os.setuid(0); raise SystemExit("root again")
except PermissionError: pass'
check seteuid py 'import os; os.seteuid(9); assert os.getresuid() == (0, 9, 0); os.seteuid(0); os.chown("/f", 5, 5)'
check chroot-userspec sh_ 'test "$(chroot --userspec=ann:bob / id -un)" = ann'
check chroot sh_ 'mkdir -p /cr/bin /cr/w; cp /busybox /cr/bin/busybox; chroot /cr /bin/busybox sh -ec "busybox touch /q; busybox chown 21:22 /q; busybox ln -s /w /v; busybox touch /v/deep; busybox chown 23 /v/deep"; test "$(stat -c %u:%g /cr/q)" = 21:22; test "$(stat -c %u /cr/w/deep)" = 23'
check setuid sh_ 'cp /usr/bin/id /s; chown bob /s; chmod 4755 /s; su ann -c /s | grep -q "euid=$(id -u bob)"'
check setgid sh_ 'cp /usr/bin/id /sgid; chown root:bob /sgid; chmod 2755 /sgid; su ann -c /sgid | grep -q "egid=$(id -g bob)"'
check setuid-root sh_ 'cp /usr/bin/id /sr; chmod 4755 /sr; su ann -c /sr | grep -q "euid=0"'
check setuid-script sh_ 'printf "#!/bin/sh\nid -u\n" >/script; chmod 4755 /script; test "$(su ann -c /script)" = "$(id -u ann)"'
check static sh_ '/busybox touch /st; /busybox chown 31:32 /st; test "$(/busybox stat -c %u:%g /st)" = 31:32'
check mknod sh_ 'mknod -m 640 /n c 1 3 && chown 0:9 /n && test -c /n && mknod /b b 8 1 && test -b /b && test "$(stat -c %t:%T /b)" = 8:1 && test "$(stat -c %a:%g /n)" = 640:9'
check setcap py 'import os, shutil; shutil.copy("/bin/true", "/capped"); os.setxattr("/capped", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000")); assert os.getxattr("/capped", "security.capability")[4:8] == bytes.fromhex("00200000")'
check hard-link sh_ 'ln /f /f2; chown 77 /f2; test "$(stat -c %u /f)" = 77'
check rename sh_ 'mv /f /f3; test "$(stat -c %u /f3)" = 77; mv /l /l3; test "$(stat -c %u /l3)" = 3'
check socket py 'import os, socket; s = socket.socket(socket.AF_UNIX); s.bind("/sock"); os.chown("/sock", 5, 6); assert os.stat("/sock").st_uid == 5'
check peer py 'import os, socket, struct, time
ours, theirs = os.pipe(), os.pipe()
pid = os.fork()
if pid == 0:
    os.setgid(9); os.setuid(9)
    s = socket.socket(socket.AF_UNIX); s.bind("/tmp/peer"); s.listen()
    os.write(ours[1], b"x"); os.read(theirs[0], 1); os._exit(0)
os.read(ours[0], 1)
s = socket.socket(socket.AF_UNIX); s.connect("/tmp/peer")
found = struct.unpack("3i", s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
os.write(theirs[1], b"x"); os.wait()
assert found == (pid, 9, 9), found'
check remove sh_ 'mkdir -p /r/s; chown -R ann /r; mv /r /r2; rm -r /r2'
check tar sh_ 'mkdir /tt; touch /tt/a; chown 41:42 /tt/a; tar cf /tt.tar -C / tt; rm -r /tt; tar xpf /tt.tar -C /; test "$(stat -c %u:%g /tt/a)" = 41:42'
check cp sh_ 'cp -a /tt /tt2; test "$(stat -c %u:%g /tt2/a)" = 41:42'
check cp-of-another sh_ 'touch /cpo; chown bob /cpo; su ann -c "cp -a /cpo /tmp/cpo"; test "$(stat -c %U /tmp/cpo)" = ann; chown -h bob /l3; su ann -c "cp -a /l3 /tmp/l3"; test "$(stat -c %U /tmp/l3)" = ann'
check attributes py 'import os; os.setxattr("/home/ann", "user.note", b"x"); assert os.listxattr("/home/ann") == ["user.note"], os.listxattr("/home/ann"); assert os.listxattr("/cpo") == []'
check terminal sh_ 'script -qec tty /dev/null | grep -q pts'
check memory sh_ 'echo x >/dev/shm/x; chown 5 /dev/shm/x; test "$(stat -c %u /dev/shm/x)" = 5'
check setgid-directory sh_ 'mkdir /sg; chown 0:50 /sg; chmod 2775 /sg; touch /sg/f; mkdir /sg/d; test "$(stat -c %g /sg/f)" = 50; test "$(stat -c %g:%a /sg/d)" = 50:2755'
check umask sh_ 'su ann -c "cd; umask 077; touch u; mkdir ud"; test "$(stat -c %a /home/ann/u /home/ann/ud | xargs)" = "600 700"'
check install sh_ 'install -o ann -g bob -m 640 /dev/null /inst; test "$(stat -c %U:%G:%a /inst)" = ann:bob:640'
check find sh_ 'test "$(find /home/ann -maxdepth 0 -user ann)" = /home/ann'
check unnamed-file py 'import os, tempfile; os.setegid(9); os.seteuid(9); f = tempfile.TemporaryFile(dir="/tmp"); assert os.fstat(f.fileno()).st_uid == 9'
check exclusive py 'import os
os.setegid(9); os.seteuid(9)
f = os.open("/tmp/ex", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640)
assert os.fstat(f).st_uid == 9 and not os.get_inheritable(f)
try: os.open("/tmp/ex", os.O_CREAT | os.O_EXCL | os.O_WRONLY); raise SystemExit("opened twice")
except FileExistsError: pass'
check threads py 'import os, threading
os.setgid(9); os.setuid(9)
seen = []
t = threading.Thread(target=lambda: seen.append(os.getuid())); t.start(); t.join(); assert seen == [9]'
check orphan sh_ 'su ann -c "(sleep 0.2; id -un >/tmp/orphan) & true"; for i in 1 2 3 4 5 6 7 8 9; do sleep 0.2; test -s /tmp/orphan && break; done; test "$(stat -c %U /tmp/orphan)" = ann; grep -q ann /tmp/orphan'
check outputs sh_ 'su ann -c "echo hi >/dev/stdout; stat -L /dev/stdin >/dev/null"'
check deep-path py 'import os
os.mkdir("/bp"); os.chdir("/bp")
for i in range(30): os.mkdir("x" * 200); os.chdir("x" * 200)
open("f", "w").close(); os.chown("f", 5, 5); assert os.stat("f").st_uid == 5'
check i386 python3 /i386.py
echo "$failures failures"
test "$failures" = 0
