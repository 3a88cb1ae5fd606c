"""Peer (a): the framework alone. One async route with a pydantic body that answers at once."""

import under_uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Hello(BaseModel):
    """The smallest body that has to be validated."""

    name: str


@app.post("/hello_world")
async def hello_world(body: Hello) -> dict[str, str]:
    return {"message": f"Hello, {body.name}!"}


if __name__ == "__main__":
    under_uvicorn.run("fastapi_hello:app")
