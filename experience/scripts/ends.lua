-- Returns {issued as a flat list, settled as a flat list}, of one moment.
return { redis.call('HGETALL', issued), redis.call('HGETALL', settled) }
