-- Prelude of every script. Each script is atomic: it runs whole or not at all, and so does its trace in the AOF.
--
--   counters   next_sequence, cursor, committed, epoch:run, epoch:trainer
--   issued     sequence -> "attempt:prompt_id"     issued, and not yet recorded by a batch
--   settled    sequence -> JSON [outcome, reason]  settled, and not yet recorded by a batch
--   places     sequence -> "stream id nonce"       where the group's one entry is; nonce = the call (and item) that put it there
--   alone      "stage:sequence" -> "count deliveries"  deliveries run alone; the last one counted
--   failures   sequence -> reason of the last release
--
-- A lease is (entry id, worker, deliveries): redelivery raises the count, so no two leases of one epoch are equal.

local meta, counters, issued, settled, places, alone, failures = unpack(KEYS, 1, 7)
local streams = { prompts = KEYS[8], completions = KEYS[9], experience = KEYS[10], quarantine = KEYS[11] }
local downstream = { prompts = 'completions', completions = 'experience' }
local GROUP = 'workers'
local NOBODY = 'released' -- holds what was given back

local function counter(name)
  return tonumber(redis.call('HGET', counters, name) or '0')
end

local function raise(name, value)
  if tonumber(value) > counter(name) then redis.call('HSET', counters, name, value) end
end

-- An error reply unless this epoch is the newest of its role; a server that knows no epoch has lost its data.
local function fenced(role, epoch)
  local newest = redis.call('HGET', counters, 'epoch:' .. role)
  if newest and tonumber(epoch) >= tonumber(newest) then return nil end
  local code = newest and 'FENCED ' or 'LOST '
  return redis.error_reply(code .. role .. ' epoch ' .. epoch .. ', the newest is ' .. (newest or 'not set'))
end

local function held(stage, id, worker, deliveries)
  local pending = redis.call('XPENDING', streams[stage], GROUP, id, id, 1)[1]
  return pending and pending[2] == worker and pending[4] == tonumber(deliveries)
end

local function place(sequence)
  local value = redis.call('HGET', places, sequence)
  if not value then return nil end
  return string.match(value, '^(%S+) (%S+) (%S+)$')
end

local function put(stream, sequence, data, nonce)
  local id = redis.call('XADD', streams[stream], '*', 'sequence', sequence, 'data', data)
  redis.call('HSET', places, sequence, stream .. ' ' .. id .. ' ' .. nonce)
end

local function entry(stream, id)
  local found = redis.call('XRANGE', streams[stream], id, id)[1]
  return found and found[2][4]
end

local function remove(stream, id)
  if downstream[stream] then redis.call('XACK', streams[stream], GROUP, id) end
  redis.call('XDEL', streams[stream], id)
end

-- Drop what is left of a settled group; its settlement stays until a batch records it.
local function forget(sequence)
  local stream, id = place(sequence)
  if stream then remove(stream, id) end
  redis.call('HDEL', places, sequence)
  redis.call('HDEL', alone, 'prompts:' .. sequence, 'completions:' .. sequence)
  redis.call('HDEL', failures, sequence)
end
