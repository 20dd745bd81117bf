#!/usr/bin/env python3
"""Drives the installed units as an operator does, with clients and a function at hand. Runs inside `machine`."""

import asyncio
import contextlib
import inspect
import json
import mmap
import os
import pathlib
import socket
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
PACKAGE = HERE / "fngate.deb"
CONFIG = pathlib.Path("/etc/fngate/fngate.yaml")
DROP_IN = pathlib.Path("/etc/systemd/system/fngate.service.d/trial.conf")
GATEWAY = ("127.0.0.1", 9080)
FUNCTION = ("127.0.0.1", 30583)
TOKEN = "trial:secret"
# How long requests in flight may take at the end, and how long the function's slow answer takes.
GRACE = 6
SLOW = 1.5
# Where it is tried: the unit's 10s would only make this longer. Fed every third of it, so a pause of two seconds is borne.
WATCHDOG = 4
# No wait is longer.
LIMIT = 30

# The function is in this process, and what stands still for a while is no fault of the gateway.
ROUTES = """
  - name: hello
    match: { path: /hello/* }
    target: { openfunction: { function_uri: "http://127.0.0.1:30583", timeout: 30s } }
  - name: token
    match: { path: /token }
    target:
      openfunction:
        function_uri: http://127.0.0.1:30583
        timeout: 30s
        authorization: { service_token: { credential: function.token } }
"""


async def starts():
    """ready when every listener is bound; not ready when one cannot be"""
    # Connected to at once: there is no moment between ready and bound.
    for _ in range(5):
        await systemctl("restart", "fngate")
        check(await get("/hello/x") == (200, b"/x"), "the first request after the start")
    await says("serving 2 routes")
    await systemctl("stop", "fngate")
    with socket.create_server(GATEWAY):
        check(await systemctl("start", "fngate", wrong=True) != 0, "a start while the port is in use")
        await systemctl("stop", "fngate")


async def is_not_tried_again_with_a_faulty_file():
    """a start with a faulty file fails, once, with status 78"""
    await systemctl("stop", "fngate")
    configure(more="nonsense: 1\n")
    check(await systemctl("start", "fngate", wrong=True) != 0, "a start with a faulty file")
    has_failed = lambda state: state == "failed"
    await until("the end of the start", lambda: show("ActiveState"), has_failed)
    await asyncio.sleep(1)
    check(has_failed(await show("ActiveState")), "the state after it")
    check((await show("ExecMainStatus"), await show("NRestarts")) == ("78", "0"), "its end")
    configure()
    await systemctl("start", "fngate")


async def is_confined():
    """the sandbox holds for what the unit starts, and the gateway serves in it"""
    await drop_in(f"ExecStartPre=/usr/bin/python3 {HERE}/trial.py probe")
    await systemctl("restart", "fngate")
    await drop_in()
    status = pathlib.Path(f"/proc/{await main_process()}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    check("0" not in fields["Uid"].split(), "its user")
    check(int(fields["CapBnd"], 16) == 0 and int(fields["CapEff"], 16) == 0, "its capabilities")
    check(fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2", "its filter of system calls")
    check(await get("/hello/x") == (200, b"/x"), "a request")


async def knows_its_credentials():
    """a secret of LoadCredential= is read, by the service's user only"""
    answer = await get("/token")
    check(answer[0] == 200 and function.authorization.startswith("Basic "), "the function's view of the token")


async def keeps_its_logs():
    """access log and own log are in the journal, faults as errors; a file is in /var/log/fngate"""
    await get("/hello/journal")
    await until("its line in the journal", lambda: journal("--grep=/hello/journal"))
    line = json.loads((await journal("--grep=/hello/journal", "--output=cat")).splitlines()[-1])
    check(line["status"] == 200, "the line's status")
    configure(more="access_log: { path: /var/log/fngate/access.log }\n")
    await systemctl("reload", "fngate")
    await get("/hello/file")
    log = pathlib.Path("/var/log/fngate/access.log")
    await until("its line in the file", lambda: "/hello/file" in log.read_text())
    configure()
    await systemctl("reload", "fngate")


async def reloads_under_load():
    """a reload loses nothing, a faulty file is refused with a reason, and the service goes on"""
    async with load() as tally:
        for _ in range(3):
            await systemctl("reload", "fngate")
            await tally.goes_on()
        configure(more="nonsense: 1\n")
        check(await systemctl("reload", "fngate", wrong=True) != 0, "a reload with a faulty file")
        await says("unknown key `nonsense`")
        check(await show("ActiveState") == "active", "the state after it")
        await until("the reason among the journal's errors", lambda: in_journal("nonsense", "--priority=err"))
        await tally.goes_on()
        # Checked from outside it is good; only the process can say that it needs a restart.
        configure(more="threads: 7\n")
        check(await systemctl("reload", "fngate", wrong=True) != 0, "a reload that needs a restart")
        await says("takes a restart")
        configure()
        await systemctl("reload", "fngate")
        await tally.goes_on()
    return tally.nothing_failed()


async def is_watched():
    """the watchdog is fed; a process that hangs is replaced"""
    async with watched_closely():
        process = await stays("the watchdog of a process that is well")
        os.kill(process, 19)
        await another_process(process)
        await until_active()
        await until("the reason in the journal", lambda: in_journal("Watchdog timeout"))
        check(await get("/hello/x") == (200, b"/x"), "a request afterwards")


async def upgrades_under_load():
    """SIGUSR2: systemd follows the new process, with watchdog, credentials and all, and nothing is lost"""
    restarts = await show("NRestarts")
    async with load() as tally:
        for _ in range(3):
            slow = asyncio.create_task(get("/hello/slow"))
            await function.is_busy()
            before = await upgrade()
            check(await show("ActiveState") == "active", "the state after it")
            check(await slow == (200, b"/slow"), "a request that began before it")
            await until("the end of the process before", lambda: not alive(before))
            await tally.goes_on()
        process = await main_process()
        await systemctl("reload", "fngate")
        configure(more="nonsense: 1\n")
        await systemctl("kill", "--kill-whom=main", "--signal=SIGUSR2", "fngate")
        await until("the word that it failed", lambda: in_journal("upgrade failed"))
        configure()
        await tally.goes_on()
        check(await main_process() == process and await show("NRestarts") == restarts, "the process after it")
        check((await get("/token"))[0] == 200, "a request with a credential")
        check(not await in_journal("not our child"), "whose child the new process is")
    async with watched_closely():
        await upgrade()
        await stays("the watchdog of the new process")
    return tally.nothing_failed()


async def is_replaced_after_an_upgrade():
    """a new process that dies while the one before still finishes its requests is replaced"""
    stream = await Client.open()
    await stream.send("/hello/events")
    before = await upgrade()
    process = await main_process()
    os.kill(process, 9)
    began = time.monotonic()
    await another_process(process)
    await until_active()
    took = time.monotonic() - began
    stream.close()
    check(await get("/hello/x") == (200, b"/x"), "a request afterwards")
    await until("the end of the process before", lambda: not alive(before))
    return f"serving again after {took:.1f} s"


async def stops_under_load():
    """a stop after an upgrade ends the new process: what is in flight is answered, an endless stream cut, status 0"""
    await upgrade()
    async with load(fresh=0) as tally:
        await tally.goes_on()
        stream = await Client.open()
        await stream.send("/hello/events")
        await stream.head()
        slow = [asyncio.create_task(get("/hello/slow")) for _ in range(5)]
        await function.is_busy(5)
        tally.may_be_refused = True
        began = time.monotonic()
        await systemctl("stop", "fngate")
        took = time.monotonic() - began
        answers = await asyncio.gather(*slow)
    check(all(answer == (200, b"/slow") for answer in answers), "the requests in flight")
    with contextlib.suppress(ConnectionError):
        check(not (await stream.reader.read()).endswith(b"0\r\n\r\n"), "the cut of the stream")
    check(SLOW / 2 < took < GRACE + 10, f"the time it took, {took:.1f} s")
    end = [await show(key) for key in ("ActiveState", "Result", "ExecMainStatus")]
    check(end == ["inactive", "success", "0"], f"its end: {end}")
    return f"after {took:.1f} s; {tally.nothing_failed()}"


async def is_activated():
    """the first connection starts the service, which takes the listener over"""
    await systemctl("stop", "fngate")
    await systemctl("start", "fngate.socket")
    check(await show("ActiveState") == "inactive", "the service before the first connection")
    check(await get("/hello/x") == (200, b"/x"), "the first request")
    # The process serves before systemd has read that it is ready.
    await until_active()
    listeners = await said_by("ss", "-Hltn", "sport = :9080")
    check(len(listeners.splitlines()) == 1, "one listener")


async def restarts_behind_its_socket():
    """restarts and upgrades under load lose nothing"""
    await behind_socket()
    async with load() as tally:
        for turn in range(4):
            if turn == 2:
                await upgrade()
            await systemctl("restart", "fngate")
            await until_active()
            await tally.goes_on()
    return tally.nothing_failed()


async def dies_behind_its_socket():
    """kill -9: who connects waits for the next process; only what was in flight is lost"""
    await behind_socket()
    async with load() as tally:
        for _ in range(3):
            process = await main_process()
            tally.may_break = True
            os.kill(process, 9)
            await another_process(process)
            await until_active()
            tally.may_break = False
            await tally.goes_on()
        check(await show("SubState", "fngate.socket") == "running", "the socket")
    return tally.nothing_failed()


async def waits_for_its_file():
    """clients of the socket wait for as long as the file is faulty, and are served when it is mended"""
    await behind_socket()
    configure(more="nonsense: 1\n")
    await systemctl("stop", "fngate")
    began = time.monotonic()

    async def tries():
        return (await journal("--grep=status=78")).count("\n")

    before = await tries()
    client = asyncio.create_task(get("/hello/x"))
    await until("a third start", tries, lambda now: now >= before + 3)
    check(time.monotonic() - began > 2, "the time between starts")
    check(not client.done(), "a client that waits")
    configure()
    check(await asyncio.wait_for(client, LIMIT) == (200, b"/x"), "its answer")


async def can_be_fenced_in():
    """IPAddressDeny= and IPAddressAllow= hold for clients"""
    await drop_in("IPAddressDeny=any", "IPAddressAllow=localhost")
    await systemctl("restart", "fngate")
    check(await get("/hello/x") == (200, b"/x"), "a request from an address that is allowed")
    await drop_in("IPAddressDeny=any", "IPAddressAllow=192.0.2.0/24")
    # The filter holds for sockets that the service opens itself.
    await systemctl("stop", "fngate.socket", "fngate")
    await systemctl("start", "fngate")
    try:
        await asyncio.wait_for(get("/hello/x"), 1)
        denied = False
    except TimeoutError:
        denied = True
    await drop_in()
    await systemctl("restart", "fngate")
    return "" if denied else "left out: this machine cannot filter addresses by unit"


async def is_updated_as_a_package():
    """an update restarts the service behind its socket and loses nothing"""
    await behind_socket()
    process = await main_process()
    async with load() as tally:
        # The file that was changed is kept.
        await start("dpkg", "-i", str(PACKAGE))
        await until_active()
        check(await main_process() not in (0, process), "another process")
        await tally.goes_on()
    return tally.nothing_failed()


async def is_purged():
    """purged while it runs and is enabled, the package leaves nothing behind"""
    await systemctl("enable", "fngate", "fngate.socket")
    await start("rm", "-r", "/etc/fngate/secrets")
    await start("dpkg", "--purge", "fngate")
    check(await show("ActiveState") == "inactive", "the service")
    check(await show("ActiveState", "fngate.socket") == "inactive", "the socket")
    await start("rm", "-r", str(DROP_IN.parent))
    places = ("/usr", "/etc", "/var/log", "/var/lib/systemd")
    left = [str(path) for place in places for path in pathlib.Path(place).rglob("*fngate*")]
    check(not left, f"what is left: {left}")


STEPS = [
    starts,
    is_not_tried_again_with_a_faulty_file,
    is_confined,
    knows_its_credentials,
    keeps_its_logs,
    reloads_under_load,
    is_watched,
    upgrades_under_load,
    is_replaced_after_an_upgrade,
    stops_under_load,
    is_activated,
    restarts_behind_its_socket,
    dies_behind_its_socket,
    waits_for_its_file,
    can_be_fenced_in,
]
OF_A_PACKAGE = [is_updated_as_a_package, is_purged]


async def main():
    status = await drive()
    sys.stdout.flush()
    # What still runs here is of no interest.
    os._exit(status)


async def drive():
    global function
    function = Function()
    await function.listen()
    await install()
    for step in STEPS + OF_A_PACKAGE * PACKAGE.exists():
        if sys.argv[1:] and step.__name__ not in sys.argv[1:]:
            continue
        try:
            await systemctl("start", "fngate")
            said = await step()
        except Exception as error:
            print(f"FAILED {step.__name__}: {type(error).__name__}: {error}", flush=True)
            subprocess.run(["systemctl", "status", "--no-pager", "--lines=0", "fngate.service", "fngate.socket"])
            print(await journal("--lines=40", "--grep=^[^{]"))
            return 1
        print(f"ok     {inspect.getdoc(step)}" + (f" ({said})" if said else ""), flush=True)
    return 0


async def install():
    """As the README says, or from a package."""
    if PACKAGE.exists():
        await start("dpkg", "-i", str(PACKAGE))
    else:
        await start("install", "-m", "755", str(HERE / "fngate"), "/usr/bin/fngate")
        await start("install", "-D", "-m", "644", str(HERE / "conf/fngate.yaml"), str(CONFIG))
        units = [str(HERE / "systemd" / name) for name in ("fngate.service", "fngate.socket")]
        await start("install", "-m", "644", *units, "/etc/systemd/system/")
    configure()
    secret = pathlib.Path("/etc/fngate/secrets/function.token")
    secret.parent.mkdir(mode=0o700)
    secret.write_text(TOKEN)
    secret.chmod(0o600)
    await drop_in()


def configure(more=""):
    """Replaced as a whole: the running process reads it as soon as it changes."""
    text = f"shutdown_grace: {GRACE}s\n{more}routes:{ROUTES}"
    draft = CONFIG.with_suffix(".new")
    draft.write_text(text)
    draft.chmod(0o644)
    draft.rename(CONFIG)


@contextlib.asynccontextmanager
async def watched_closely():
    """With a watchdog that does not wait for as long as the unit's."""
    await drop_in(f"WatchdogSec={WATCHDOG}s")
    await systemctl("restart", "fngate")
    yield
    await drop_in()
    await systemctl("restart", "fngate")


async def stays(what):
    """The main process, which outlives the time of that watchdog."""
    process, restarts = await main_process(), await show("NRestarts")
    await asyncio.sleep(WATCHDOG * 1.5)
    check(await main_process() == process and await show("NRestarts") == restarts, what)
    return process


async def drop_in(*lines):
    DROP_IN.parent.mkdir(exist_ok=True)
    credential = "LoadCredential=function.token:/etc/fngate/secrets/function.token"
    DROP_IN.write_text("\n".join(["[Service]", credential, *lines]))
    await systemctl("daemon-reload")


# systemd


async def systemctl(*words, wrong=False):
    return await start("systemctl", *words, wrong=wrong)


async def show(key, unit="fngate.service"):
    return (await said_by("systemctl", "show", "--value", f"--property={key}", unit)).strip()


async def main_process():
    return int(await show("MainPID"))


async def another_process(process):
    await until("another main process", lambda: main_process(), lambda now: now not in (0, process))


async def until_active():
    await until("an active service", lambda: show("ActiveState"), lambda state: state == "active")


async def says(text):
    await until(f"{text} in the status line", lambda: show("StatusText"), lambda status: text in status)


async def behind_socket():
    """As the README says: a service that runs has its own listeners."""
    await systemctl("stop", "fngate")
    await systemctl("start", "fngate.socket", "fngate")


async def upgrade():
    """As the README says; returns the process that was the main one."""
    before = await main_process()
    await start("install", "-m", "755", "/usr/bin/fngate", "/usr/bin/fngate.new")
    os.rename("/usr/bin/fngate.new", "/usr/bin/fngate")
    await systemctl("kill", "--kill-whom=main", "--signal=SIGUSR2", "fngate")
    await another_process(before)
    return before


async def journal(*words):
    return await said_by("journalctl", "--no-pager", "--quiet", "--unit=fngate", *words)


async def in_journal(text, *words):
    return text in await journal(*words)


def alive(process):
    return pathlib.Path(f"/proc/{process}").exists()


async def until(what, look, good=bool):
    """Looks again and again."""
    end = time.monotonic() + LIMIT
    while True:
        seen = look()
        seen = await seen if inspect.isawaitable(seen) else seen
        if good(seen):
            return
        check(time.monotonic() < end, f"{what} did not come within {LIMIT} s")
        await asyncio.sleep(0.05)


async def start(*words, wrong=False):
    """Clients and function go on meanwhile."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*words, stdout=pipe, stderr=pipe)
    _, said = await asyncio.wait_for(process.communicate(), LIMIT)
    check(wrong or process.returncode == 0, f"{' '.join(words)}: {said.decode().strip()}")
    return process.returncode


async def said_by(*words):
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    return said.decode()


def check(good, what):
    if not good:
        raise AssertionError(what)


# Clients


class Client:
    """One connection, of HTTP/1.1."""

    @classmethod
    async def open(cls):
        client = cls()
        client.reader, client.writer = await asyncio.open_connection(*GATEWAY)
        return client

    async def send(self, path):
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: gateway\r\n\r\n".encode())
        await self.writer.drain()

    async def head(self):
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split()[1]), fields

    async def answer(self):
        status, fields = await self.head()
        body = await self.reader.readexactly(int(fields["content-length"]))
        self.stays = fields.get("connection") != "close"
        return status, body

    def close(self):
        self.writer.close()


async def get(path):
    client = await Client.open()
    try:
        await client.send(path)
        return await client.answer()
    finally:
        client.close()


class Tally:
    """What clients saw."""

    def __init__(self):
        self.good = 0
        self.faults = []
        self.broken = 0
        # Whether a connection may be refused, and whether one that stands may break.
        self.may_be_refused = False
        self.may_break = False
        self.over = False

    async def client(self, kept):
        """One request after the other, on one connection for as long as the gateway keeps it, or on a new one each."""
        client = None
        while not self.over:
            if client is None:
                try:
                    client = await Client.open()
                except OSError as error:
                    if self.may_be_refused:
                        return
                    self.faults.append(f"connecting: {error}")
                    await asyncio.sleep(0.05)
                    continue
            fragile = self.may_break
            try:
                await client.send("/hello/x")
                answer = await asyncio.wait_for(client.answer(), LIMIT)
                if answer == (200, b"/x"):
                    self.good += 1
                else:
                    self.faults.append(f"answer: {answer}")
            except (OSError, EOFError, TimeoutError) as error:
                client.stays = False
                if fragile or self.may_break:
                    self.broken += 1
                else:
                    self.faults.append(f"request: {error!r}")
            if not (kept and client.stays):
                client.close()
                client = None
            await asyncio.sleep(0.01)
        if client is not None:
            client.close()

    async def goes_on(self):
        wanted = self.good + 50
        await until("50 more answers", lambda: self.good >= wanted or self.faults)

    def nothing_failed(self):
        check(not self.faults, f"{len(self.faults)} of {self.good + len(self.faults)} failed: {self.faults[:5]}")
        broken = f", {self.broken} in flight broke" if self.broken else ""
        return f"{self.good} requests, none failed{broken}"


@contextlib.asynccontextmanager
async def load(kept=4, fresh=4):
    tally = Tally()
    clients = [asyncio.create_task(tally.client(index < kept)) for index in range(kept + fresh)]
    try:
        await tally.goes_on()
        yield tally
    finally:
        tally.over = True
        await asyncio.gather(*clients)


class Function:
    """Behind the gateway. Answers with the path, after a while when that says `slow`; `events` has no end."""

    def __init__(self):
        self.authorization = ""
        self.busy = 0

    async def listen(self):
        self.server = await asyncio.start_server(self.serve, *FUNCTION, backlog=1000)

    async def is_busy(self, count=1):
        await until("a slow request at the function", lambda: self.busy >= count)

    async def serve(self, reader, writer):
        with contextlib.suppress(OSError, EOFError):
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                path = lines[0].split()[1]
                fields = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
                self.authorization = fields.get("authorization", "").capitalize()
                if path == "/slow":
                    self.busy += 1
                    await asyncio.sleep(SLOW)
                    self.busy -= 1
                if path == "/events":
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
                    while True:
                        writer.write(b"9\r\ndata: x\n\n\r\n")
                        await writer.drain()
                        await asyncio.sleep(0.1)
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(path)}\r\n\r\n{path}".encode())
                await writer.drain()
        writer.close()


# What the sandbox has to refuse


def probe():
    """Started by the unit, so in its sandbox. Ends with 1 when something goes that must not."""
    gone = [what for what, attempt in ATTEMPTS.items() if goes(attempt)]
    print("the sandbox lets through:", ", ".join(gone) or "nothing")
    sys.exit(bool(gone))


def goes(attempt):
    try:
        return attempt() is not False
    except (OSError, ValueError, subprocess.CalledProcessError):
        return False


ATTEMPTS = {
    "root": lambda: os.getuid() == 0,
    "memory to write and execute": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC),
    "a socket of netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "a raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    "a namespace": lambda: subprocess.run(["unshare", "--user", "true"], check=True, capture_output=True),
    "the scheduler": lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
    "a file in /etc": lambda: open("/etc/fngate/probe", "w"),
    "a file in /usr": lambda: open("/usr/bin/probe", "w"),
    "the secrets": lambda: open("/etc/fngate/secrets/function.token"),
    "homes": lambda: os.listdir("/home") or os.listdir("/root") or False,
    "devices": lambda: os.path.exists("/dev/kmsg") or os.path.exists("/dev/mem"),
    "other processes": lambda: os.path.exists("/proc/1"),
    "the kernel's numbers": lambda: os.path.exists("/proc/meminfo") or os.path.exists("/proc/sys"),
    "a set-user-id bit": lambda: os.chmod("/var/log/fngate", 0o4750),
}


if __name__ == "__main__":
    if sys.argv[1:] == ["probe"]:
        probe()
    else:
        asyncio.run(main())
