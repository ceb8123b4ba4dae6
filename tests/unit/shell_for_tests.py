"""A stand-in for ssh: `shell_for_tests.py HOST COMMAND` runs a command on this machine as sshd would.

The command has a session and an environment of its own; its standard input is closed when this process ends,
however it ends.
"""

import os
import subprocess
import sys
import threading


def main(host: str, command: str) -> int:
    env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "HOST": host}
    remote = subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE, env=env, start_new_session=True)

    def forward() -> None:
        while os.read(0, 4096):
            pass
        remote.stdin.close()

    threading.Thread(target=forward, daemon=True).start()
    return remote.wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
