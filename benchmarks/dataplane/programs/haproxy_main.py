"""HAProxy before some bare servers, until it is ended: haproxy_main.py PORT BACKEND_PORT ...

Model ids are hashed to servers, which is the least that routing by model can cost.
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

START_TIMEOUT_S = 30.0

port, *backends = sys.argv[1:]
for backend in backends:
    uvicorn = [sys.executable, "-m", "uvicorn", "bare:app", "--port", backend, "--app-dir", str(Path(__file__).parent)]
    subprocess.Popen([*uvicorn, "--loop", "uvloop", "--http", "httptools", "--no-access-log"])
deadline = time.monotonic() + START_TIMEOUT_S
for backend in backends:
    while True:  # or it would be told that there is no server for some of the first requests
        try:
            socket.create_connection(("127.0.0.1", int(backend)), timeout=1.0).close()
            break
        except OSError:
            if time.monotonic() > deadline:
                sys.exit(f"the server on port {backend} did not start within {START_TIMEOUT_S} s")
            time.sleep(0.02)
servers = "".join(f"  server s{backend} 127.0.0.1:{backend}\n" for backend in backends)
Path("haproxy.cfg").write_text(f"""
defaults
  mode http
  option http-keep-alive
  http-reuse always
  retries 0
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend http
  bind 127.0.0.1:{port}
  default_backend replicas
backend replicas
  balance hdr(serve_multiplexed_model_id)
  hash-type consistent
{servers}""")
os.execvp("haproxy", ["haproxy", "-db", "-f", "haproxy.cfg"])
