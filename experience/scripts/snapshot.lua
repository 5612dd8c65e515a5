-- Returns live, committed, next_sequence, cursor, then the lengths of prompts, completions, experience, quarantine.
local reply = { redis.call('HLEN', issued) - redis.call('HLEN', settled) }
for _, name in ipairs({ 'committed', 'next_sequence', 'cursor' }) do reply[#reply + 1] = counter(name) end
for i = 8, 11 do reply[#reply + 1] = redis.call('XLEN', KEYS[i]) end
return reply
