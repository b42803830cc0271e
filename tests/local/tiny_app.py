"""A process for the tests of the local system: one kit application and, where asked, a grandchild that resists being ended."""

import os
import subprocess
import sys

import uvicorn

from services.kit.application import create_app
from services.kit.settings import ServiceSettings

RESIST = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"

if __name__ == "__main__":
    if os.environ.get("TINY_GRANDCHILD"):
        subprocess.Popen([sys.executable, "-c", RESIST], start_new_session=True)
    app = create_app(name="tiny", version="1", settings=ServiceSettings(), routers=())
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["TINY_PORT"]), log_config=None, access_log=False)
