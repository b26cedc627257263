"""A script that does not come to be an actor: it loads for ever, and has a helper that does so too."""

import subprocess
import sys

import teamster

subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], stdin=subprocess.DEVNULL)
open(sys.argv[1], "w").close()
while not teamster.is_cancelled():
    pass
