-- ARGV: fingerprint. Deletes all of the run's keys; returns {how many there were, ''}, or {-1, the fingerprint found} where
-- they are another run's. Whoever still writes is refused from then on: a server that knows no epoch takes nothing.
-- Repeated: finds nothing left.
local found = redis.call('HGET', meta, 'fingerprint')
if found and found ~= ARGV[1] then return { -1, found } end
return { redis.call('UNLINK', unpack(KEYS)), '' }
