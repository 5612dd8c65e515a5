-- ARGV: sequence. Returns {} or {stream, id, data, holder, deliveries, ms since it was last leased, renewed or given back}.
local stream, id = place(ARGV[1])
local data = stream and entry(stream, id)
if not data then return {} end
local pending = downstream[stream] and redis.call('XPENDING', streams[stream], GROUP, id, id, 1)[1]
if not pending then return { stream, id, data, '', 0, -1 } end
return { stream, id, data, pending[2] == NOBODY and '' or pending[2], pending[4], pending[3] }
