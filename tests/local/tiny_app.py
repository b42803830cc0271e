"""A process for the tests of the local system: one kit application, and a grandchild that resists."""

import os
import subprocess
import sys

import uvicorn

from services.kit.application import create_app
from services.kit.settings import ServiceSettings

if __name__ == "__main__":
    subprocess.Popen(
        [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"],
        start_new_session=True,
    )
    settings = ServiceSettings()
    app = create_app(name="tiny", version="1", settings=settings, routers=())
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["TINY_PORT"]), log_config=None, access_log=False)
