-- `take`. Returns the new epoch, false for a stream that has a producer or has ended, or the status of a missing stream.
local producer, process, id, nonce = unpack(ARGV, 1, 4)
local key = P .. 's:' .. id
local s = redis.call('HMGET', key, 'producer', 'epoch', 'ending', 'nonce', 'continue', 'end', 'watch')
if not s[1] then return missing(id) end
if s[4] == nonce then return tonumber(s[2]) end
if s[3] or not is_gone(s[1]) then return false end
renew(producer, process)
redis.call('HSET', key, 'producer', producer, 'epoch', s[2] + 1, 'nonce', nonce)
redis.call('ZREM', P .. 'c:' .. s[1], id)
if s[5] then continues_with(producer, id) end
for _, change in ipairs(redis.call('LRANGE', P .. 'w:' .. id, 0, -1)) do
  order(producer, 'e' .. string.sub(change, 1, 16) .. id)
end
if s[6] then order(producer, s[6] .. id) end
wake_readers(id, s[7])
publish()
return s[2] + 1
