"""The yardstick: a FastAPI application whose one endpoint reads the body and answers a constant, under the service's uvicorn settings."""

import sys

import uvicorn
from fastapi import FastAPI, Request, Response

app = FastAPI()


@app.post("/nothing")
async def nothing(request: Request) -> Response:
    """Takes whatever comes."""
    await request.body()
    return Response(b"{}", media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", log_config=None, access_log=False, server_header=False)
