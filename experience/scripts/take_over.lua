-- ARGV: epoch. Gives back every lease: their holders belong to older lives, which the epoch fences. The end of a life is
-- nobody's fault, so deliveries count from 0 again (those run alone stay counted). Repeated: nothing is held.
local refusal = fenced('run', ARGV[1])
if refusal then return refusal end
for stage in pairs(downstream) do
  local stream = streams[stage]
  local held_now = redis.call('XPENDING', stream, GROUP)[1]
  if held_now > 0 then
    for _, pending in ipairs(redis.call('XPENDING', stream, GROUP, '-', '+', held_now)) do
      redis.call('XCLAIM', stream, GROUP, NOBODY, 0, pending[1], 'TIME', 1, 'RETRYCOUNT', 0, 'JUSTID')
    end
  end
end
for _, field in ipairs(redis.call('HKEYS', alone)) do
  redis.call('HSET', alone, field, string.match(redis.call('HGET', alone, field), '^%d+') .. ' 0')
end
return redis.status_reply('OK')
