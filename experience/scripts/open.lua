-- ARGV: fingerprint, schema. Takes an unused prefix; returns what holds it: {fingerprint, schema}.
-- Repeated: finds its own values.
local found = redis.call('HMGET', meta, 'fingerprint', 'schema')
if not found[1] then
  local others = redis.call('EXISTS', unpack(KEYS)) - redis.call('EXISTS', counters)
  -- Epochs alone are no content: the ranks of a run whose server was flushed may have raised theirs since.
  if others > 0 or counter('next_sequence') > 0 or counter('committed') > 0 then return { '', '' } end
  redis.call('HSET', meta, 'fingerprint', ARGV[1], 'schema', ARGV[2])
  found = { ARGV[1], ARGV[2] }
end
if found[1] == ARGV[1] and found[2] == ARGV[2] then
  for stage in pairs(downstream) do
    local reply = redis.pcall('XGROUP', 'CREATE', streams[stage], GROUP, '0', 'MKSTREAM')
    if reply.err and not string.find(reply.err, 'BUSYGROUP', 1, true) then return reply end
  end
end
return found
