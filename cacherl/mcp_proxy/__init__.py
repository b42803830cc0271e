"""The cache as an MCP server: any agent framework that speaks MCP gets the recorded tools, each with its provenance.

    names.py      names that clients can take, and back
    episode.py    one MCP session is one episode: its state is chained, its calls go in order
    catalogue.py  what a cache holds at the moment at which a session starts
    shapes.py     our tools, results and errors as MCP's
    server.py     the handlers of the protocol, and which episode a request belongs to
    http.py       streamable HTTP: who may come in, and from where
    stdio.py      standard input and output

It is a client of the cache API (`cacherl.client`) and keeps nothing but where its sessions stand. `server`, `http`, `stdio` and `shapes`
need the extra `mcp`; nothing else of the library does.
"""
