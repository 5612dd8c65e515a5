-- Returns the commands that this user may not run on the run's keys: all that the other scripts call and XREAD, each tried
-- once, on a key that is gone afterwards. A refusal's wording differs between servers.
local key, missing = meta .. ':rights', {}

local function try(name, ...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then
    for _, wording in ipairs({ 'NOPERM', 'ACL failure', "can't run", "can't access" }) do
      if string.find(reply.err, wording, 1, true) then
        missing[#missing + 1] = name
        break
      end
    end
  end
end

try('UNLINK', 'UNLINK', key)
try('EXISTS', 'EXISTS', key)
try('HSET', 'HSET', key, 'a', '1')
try('HSETNX', 'HSETNX', key, 'a', '1')
try('HGET', 'HGET', key, 'a')
try('HMGET', 'HMGET', key, 'a')
try('HGETALL', 'HGETALL', key)
try('HKEYS', 'HKEYS', key)
try('HLEN', 'HLEN', key)
try('HEXISTS', 'HEXISTS', key, 'a')
try('HDEL', 'HDEL', key, 'a')
try('XGROUP CREATE', 'XGROUP', 'CREATE', key, 'g', '0', 'MKSTREAM')
try('XADD', 'XADD', key, '1-1', 'a', '1')
try('XLEN', 'XLEN', key)
try('XRANGE', 'XRANGE', key, '-', '+')
try('XREAD', 'XREAD', 'STREAMS', key, '0')
try('XREADGROUP', 'XREADGROUP', 'GROUP', 'g', 'c', 'STREAMS', key, '>')
try('XPENDING', 'XPENDING', key, 'g')
try('XINFO STREAM', 'XINFO', 'STREAM', key)
try('XCLAIM', 'XCLAIM', key, 'g', 'c', '0', '1-1')
try('XAUTOCLAIM', 'XAUTOCLAIM', key, 'g', 'c', '0', '0')
try('XACK', 'XACK', key, 'g', '1-1')
try('XDEL', 'XDEL', key, '1-1')
redis.pcall('UNLINK', key)
return missing
