"""Drives a fake compute through its states, with Python's standard library alone.

    COMPUTE_CTL=bin/compute_ctl python3 examples/fakes/client.py
"""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
DEADLINE = 30

# Its standard input is a pipe of ours: when we are gone, however that comes about, it ends, too.
fake = subprocess.Popen(
    [
        os.environ.get("COMPUTE_CTL", "compute_ctl"),
        "fake",
        "compute",
        "--script",
        os.path.join(HERE, "compute.json"),
        "--until-stdin-closes",
    ],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
)
compute = json.loads(fake.stdout.readline())


def ask(method, path, body=None):
    """The status code and the JSON of the answer (None: it is no JSON)."""
    request = urllib.request.Request(
        compute["url"] + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"authorization": "Bearer " + compute["token"], "content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            code, text = answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        code, text = refused.code, refused.read()
    try:
        return code, json.loads(text)
    except ValueError:
        return code, None


def expect(what, found, wanted):
    if found != wanted:
        sys.exit(f"{what}: expected {wanted!r}, found {found!r}")
    print(f"{what}: {found}")


def wait_for(status):
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        code, answer = ask("GET", "/status")
        if code == 200 and answer["status"] == status:
            return answer
        time.sleep(0.05)
    sys.exit(f"the compute did not become {status} within {DEADLINE} s")


spec = {"spec": {"format_version": 1, "cluster": {"roles": [{"name": "web"}], "databases": []}}}

# The script's two 503 come first, as of a node that is not reachable yet.
expect("the first answer", ask("GET", "/status")[0], 503)
expect("the second answer", ask("GET", "/status")[0], 503)
expect("without a spec", wait_for("empty")["status"], "empty")
expect("the first spec", ask("POST", "/configure", spec)[0], 200)
expect("and so", wait_for("running")["error"], None)
code, refused = ask("POST", "/configure", spec)
expect("the second spec", (code, refused["code"]), (500, "apply_failed"))
expect("and so", "permission denied" in wait_for("failed")["error"], True)
expect("the third spec", ask("POST", "/configure", spec)[0], 200)
expect("and so", wait_for("running")["error"], None)
expect("the end", ask("POST", "/terminate"), (200, {"lsn": "0/16B9188"}))
expect("and so", wait_for("terminated")["status"], "terminated")

seen = ask("GET", "/_seen")[1]["seen"]
expect("specs that it saw", sum(one["path"] == "/configure" for one in seen), 3)
expect("tokens that it saw", {one["token"] for one in seen}, {"token"})

fake.stdin.close()
expect("its exit code", fake.wait(timeout=DEADLINE), 0)
