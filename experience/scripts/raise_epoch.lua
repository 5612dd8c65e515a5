-- ARGV: role, epoch. Repeated: raising to the same value changes nothing.
raise('epoch:' .. ARGV[1], ARGV[2])
return redis.status_reply('OK')
