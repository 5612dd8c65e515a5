-- ARGV: epoch, then per lease: stage, id, worker, deliveries. Returns the ids no longer held. Repeated: renews again.
local refusal = fenced('run', ARGV[1])
if refusal then return refusal end
local lost = {}
for i = 2, #ARGV, 4 do
  local stage, id, worker, deliveries = unpack(ARGV, i, i + 3)
  if held(stage, id, worker, deliveries) then
    redis.call('XCLAIM', streams[stage], GROUP, worker, 0, id, 'JUSTID') -- JUSTID: not another delivery
  else
    lost[#lost + 1] = id
  end
end
return lost
