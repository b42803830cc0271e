"""The yardsticks: FastAPI endpoints that do nothing, under the service's uvicorn settings.

`/constant` is the least there can be: no parameter, a response made beforehand. `/json` is what an endpoint costs that takes JSON and
answers JSON: the body is read and its type checked, the answer is written, and nothing happens in between.
"""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response

app = FastAPI()


@app.post("/constant")
async def constant(request: Request) -> Response:
    """Takes whatever comes."""
    await request.body()
    return Response(b"{}", media_type="application/json")


@app.post("/json")
async def json(body: dict[str, Any]) -> dict[str, Any]:
    """Takes a JSON object."""
    return {}


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", log_config=None, access_log=False, server_header=False)
