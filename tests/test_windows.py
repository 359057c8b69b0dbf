"""Nothing of the pack uses what Windows lacks, as far as reading its code can tell; it is not run there.

Places behind a check of the platform may. LISTED are the others, each with its reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = [ROOT / "__init__.py", *sorted(ROOT.glob("nodes/**/*.py")), *sorted(ROOT.glob("runtime/**/*.py"))]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


MODULES = _names(
    "fcntl resource pwd grp spwd crypt termios tty pty posix syslog readline curses nis _posixshmem uvloop"
)
OF_MODULES = {
    "os": _names(
        "fork forkpty kill killpg setsid getsid setpgid getpgid setpgrp getpgrp tcgetpgrp tcsetpgrp getuid geteuid "
        "getgid getegid getgroups getlogin setuid seteuid setgid setegid setgroups initgroups nice getpriority "
        "setpriority sched_getaffinity sched_setaffinity sched_yield sched_setscheduler wait wait3 wait4 waitid "
        "mkfifo mknod chown lchown fchown chroot fchmod fchdir statvfs fstatvfs pread pwrite preadv pwritev readv "
        "writev sendfile copy_file_range sync fdatasync pipe2 openpty ttyname uname getloadavg sysconf pathconf "
        "confstr register_at_fork eventfd memfd_create pidfd_open splice setns unshare posix_spawn posix_fallocate "
        "posix_fadvise lockf get_blocking set_blocking symlink readlink rename O_CLOEXEC O_DIRECTORY O_NOFOLLOW "
        "O_NONBLOCK O_SYNC RTLD_GLOBAL RTLD_NOW RTLD_LAZY"
    ),
    "signal": _names(
        "alarm setitimer getitimer pause pthread_kill pthread_sigmask sigwait sigwaitinfo sigtimedwait sigpending "
        "siginterrupt SIGKILL SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGPIPE SIGSTOP SIGCONT SIGTSTP SIGTTIN "
        "SIGTTOU SIGWINCH SIGBUS SIGTRAP SIGXCPU SIGVTALRM SIGPROF"
    ),
    "socket": _names("AF_UNIX AF_NETLINK AF_PACKET AF_VSOCK SO_REUSEPORT send_fds recv_fds CMSG_LEN fromfd"),
    "select": {"poll", "epoll", "kqueue", "devpoll"},
    "time": _names("clock_gettime clock_settime tzset pthread_getcpuclockid CLOCK_MONOTONIC CLOCK_REALTIME"),
    "asyncio": {"open_unix_connection", "start_unix_server"},
    "shutil": {"chown"},
}
"""Functions and constants that Windows lacks, or that do something else there: os.rename replaces no file, os.kill ends
the process whatever the signal, and symbolic links need a right that few users have."""
METHODS = {"rename", "symlink_to", "readlink", "add_signal_handler", "remove_signal_handler"}
"""Methods of paths and event loops, of whatever object."""
ARGUMENTS = {"preexec_fn", "pass_fds", "start_new_session", "process_group", "umask"}
"""Arguments of subprocess; start_new_session does nothing there."""
PATHS = ("/proc", "/dev/", "/sys/", "/tmp", "/etc/", "/usr/", "/bin/", "/var/", "/run/")
START_METHODS = ("fork", "forkserver")

LISTED = {
    ("runtime/pool/local/process.py", "pass_fds"): "replaced by a list of handles where sys.platform is win32",
    ("runtime/pool/local/process.py", "start_new_session"): "replaced by a process group of its own there",
}


class Finder(ast.NodeVisitor):
    """Collects (line, what) of a file in `found`."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []
        self._modules: dict[str, str] = {}  # names in the file that stand for modules
        self._on_windows: set[str] = set()  # variables that say whether this is Windows
        self._elsewhere = 0  # above 0: not reached on Windows

    def _tell(self, node: ast.AST, what: str) -> None:
        if not self._elsewhere:
            self.found.append((node.lineno, what))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._modules[alias.asname or alias.name.partition(".")[0]] = alias.name
            self._imported(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self._imported(node, node.module or "")
        for alias in node.names if not node.level else ():
            if alias.name in OF_MODULES.get(node.module, ()):
                self._tell(node, f"{node.module}.{alias.name}")

    def _imported(self, node: ast.AST, name: str) -> None:
        if name.partition(".")[0] in MODULES:
            self._tell(node, name)

    def visit_Assign(self, node: ast.Assign) -> None:
        if self._platform(node.value) == "windows":
            self._on_windows |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        module = self._modules.get(node.value.id) if isinstance(node.value, ast.Name) else None
        if node.attr in OF_MODULES.get(module, ()):
            self._tell(node, f"{module}.{node.attr}")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        is_method = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") not in self._modules
        if is_method and called in METHODS:
            self._tell(node, f".{called}()")
        for name in ARGUMENTS & named.keys():
            self._tell(node, name)
        if isinstance(named.get("shell"), ast.Constant) and named["shell"].value:
            self._tell(node, "shell=True")
        if called in ("get_context", "set_start_method") and any(
            isinstance(argument, ast.Constant) and argument.value in START_METHODS for argument in node.args
        ):
            self._tell(node, f"{called} with fork")
        if called == "NamedTemporaryFile" and not ({"delete", "delete_on_close"} & named.keys()):
            self._tell(node, "NamedTemporaryFile that cannot be opened again by its name")
        if _opens_text(called, node, is_method) and "encoding" not in named:
            self._tell(node, f"{called} without encoding")
        self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        for key in node.keys:
            if isinstance(key, ast.Constant) and key.value in ARGUMENTS:
                self._tell(key, key.value)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and node.value.startswith(PATHS):
            self._tell(node, node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring may speak of anything
            self.generic_visit(node)

    def visit_If(self, node: ast.If | ast.IfExp) -> None:
        """The branch that Windows does not take may use what it likes."""
        platform = self._platform(node.test)
        body, orelse = (x if isinstance(x, list) else [x] for x in (node.body, node.orelse))
        self.visit(node.test)
        for branch, skipped in ((body, platform == "elsewhere"), (orelse, platform == "windows")):
            self._elsewhere += skipped
            for child in branch:
                self.visit(child)
            self._elsewhere -= skipped

    visit_IfExp = visit_If

    def _platform(self, test: ast.expr) -> str:
        """ "windows" if the test is true on Windows only, "elsewhere" if it is false there, else ""."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return {"windows": "elsewhere", "elsewhere": "windows"}.get(self._platform(test.operand), "")
        if isinstance(test, ast.Name):
            return "windows" if test.id in self._on_windows else ""
        if isinstance(test, ast.Call) and getattr(test.func, "id", "") == "hasattr":
            module, name = test.args[0], test.args[1]
            lacking = OF_MODULES.get(self._modules.get(getattr(module, "id", "")), ())
            return "elsewhere" if getattr(name, "value", "") in lacking else ""
        if isinstance(test, ast.Compare) and ast.unparse(test.left) in ("sys.platform", "os.name"):
            is_windows = getattr(test.comparators[0], "value", "") in ("win32", "nt")
            is_equal = isinstance(test.ops[0], ast.Eq)
            if is_windows or is_equal:
                return "windows" if is_windows == is_equal else "elsewhere"
        return ""


def _opens_text(called: str, node: ast.Call, is_method: bool) -> bool:
    """Whether a call reads or writes text, which Windows takes for cp1252 unless it is told."""
    if called in ("read_text", "write_text"):
        return is_method
    if called != "open" or (is_method and not isinstance(node.func.value, ast.Name | ast.Attribute | ast.BinOp)):
        return False
    modes = [x.value for x in node.args if isinstance(x, ast.Constant) and isinstance(x.value, str)]
    modes += [x.value.value for x in node.keywords if x.arg == "mode" and isinstance(x.value, ast.Constant)]
    return any(set(mode) <= set("rwaxt+") for mode in modes) or (not is_method and not any("b" in x for x in modes))


def lacking(source: str) -> Iterator[tuple[int, str]]:
    """(line, what) of everything in a source file that Windows lacks."""
    finder = Finder()
    finder.visit(ast.parse(source))
    return iter(finder.found)


def test_nothing_needs_what_windows_lacks():
    found = {(str(path.relative_to(ROOT).as_posix()), what): line
             for path in FILES for line, what in lacking(path.read_text(encoding="utf-8"))}  # fmt: skip
    assert {place: line for place, line in found.items() if place not in LISTED} == {}
    assert LISTED.keys() <= found.keys(), "an entry that nothing needs any more"


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import os\nos.fork()", "os.fork"),
        ("import os as system\nsystem.kill(1, 0)", "os.kill"),
        ("from os import getuid", "os.getuid"),
        ("import signal\nsignal.signal(signal.SIGUSR1, None)", "signal.SIGUSR1"),
        ("import socket\nsocket.socket(socket.AF_UNIX)", "socket.AF_UNIX"),
        ("def f():\n    import fcntl", "fcntl"),
        ("from resource import getrusage", "resource"),
        ("text = open('/proc/meminfo', encoding='utf-8')", "/proc/meminfo"),
        ("f'/dev/shm/{name}'", "/dev/shm/"),
        ("import subprocess\nsubprocess.run(x, shell=True)", "shell=True"),
        ("run(x, preexec_fn=f)", "preexec_fn"),
        ("path.rename(other)", ".rename()"),
        ("import os\nos.rename(a, b)", "os.rename"),
        ("import multiprocessing\nmultiprocessing.get_context('fork')", "get_context with fork"),
        (
            "import tempfile\ntempfile.NamedTemporaryFile()",
            "NamedTemporaryFile that cannot be opened again by its name",
        ),
        ("path.read_text()", "read_text without encoding"),
        ("open(path, 'w')", "open without encoding"),
        ("loop.add_signal_handler(1, f)", ".add_signal_handler()"),
        ("import os, sys\nif sys.platform == 'win32':\n    os.getuid()", "os.getuid"),
        ("import os, sys\nif sys.platform != 'win32':\n    pass\nelse:\n    os.getuid()", "os.getuid"),
        ("import os\nif hasattr(os, 'getuid'):\n    pass\nelse:\n    os.getuid()", "os.getuid"),
    ],
)
def test_what_windows_lacks_is_found(source, what):
    assert [found for _, found in lacking(source)] == [what]


@pytest.mark.parametrize(
    "source",
    [
        "import os, sys\nif sys.platform != 'win32':\n    os.killpg(1, 9)",
        "import os, sys\non_windows = sys.platform == 'win32'\nif not on_windows:\n    os.fork()",
        "import os, sys\nif sys.platform == 'win32':\n    pass\nelse:\n    os.fork()",
        "import os\nn = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1",
        "import os, sys\nif sys.platform == 'linux':\n    os.sched_getaffinity(0)",
        '"""Of /proc and os.fork."""\npath.open("rb")\nopen(path, "rb")\nos.replace(a, b)',
        "path.read_text(encoding='utf-8')\nopen(path, encoding='utf-8')\nlauncher.open(devices)",
    ],
)
def test_what_windows_does_not_reach_or_has_is_not(source):
    assert list(lacking(source)) == []
