-- ARGV: epoch, reason, stage, id, worker, deliveries, sequence. Returns 1, or 0 if not held.
-- Repeated: no longer held. The entry becomes nobody's, from now on: lease.lua serves it again after its back-off.
local refusal = fenced('run', ARGV[1])
if refusal then return refusal end
local stage, id, worker, deliveries, sequence = unpack(ARGV, 3, 7)
if not held(stage, id, worker, deliveries) then return 0 end
redis.call('HSET', failures, sequence, ARGV[2])
redis.call('XCLAIM', streams[stage], GROUP, NOBODY, 0, id, 'JUSTID')
return 1
