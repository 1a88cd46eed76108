-- wrk: METHOD FILE_WITH_THE_BODY PATH ..., where request i goes to path i with the header of model i, and around again.

local requests, sent = {}, 0

function init(args)
  local body
  if args[2] ~= "" then
    local file = assert(io.open(args[2], "rb"))
    body = file:read("*a")
    file:close()
  end
  for i = 3, #args do
    local headers = { serve_multiplexed_model_id = "m" .. (i - 3) }
    if body then headers["content-type"] = "application/json" end
    requests[i - 2] = wrk.format(args[1], args[i], headers, body)
  end
end

function request()
  sent = sent + 1
  return requests[(sent - 1) % #requests + 1]
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    "RESULT requests=%d duration_us=%d bytes=%d connect=%d read=%d write=%d status=%d timeout=%d p50_us=%d p99_us=%d p999_us=%d\n",
    summary.requests, summary.duration, summary.bytes, e.connect, e.read, e.write, e.status, e.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
