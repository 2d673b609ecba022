-- `order`. `change` is the id of a change or '', `packed` the change. Returns 1 when the order is given, 2 when the stream has
-- ended, 3 when it has `MAX_CHANGES` changes, or the status of a missing stream.
local id, letter, change, packed = unpack(ARGV, 1, 4)
local key, waiting = P .. 's:' .. id, P .. 'w:' .. id
local s = redis.call('HMGET', key, 'producer', 'ending', 'expires', 'end', 'changes')
if not s[1] then return missing(id) end
if s[2] then return 2 end
-- A producer that takes the stream over gets the order too, in case this one does not.
if letter == 'e' then
  for _, kept in ipairs(redis.call('LRANGE', waiting, 0, -1)) do
    if string.sub(kept, 1, 16) == change then return 1 end
  end
  if tonumber(s[5] or 0) >= MAX_CHANGES then return 3 end
  redis.call('HINCRBY', key, 'changes', 1)
  redis.call('RPUSH', waiting, change .. packed)
  redis.call('PEXPIREAT', waiting, s[3])
elseif not s[4] then
  redis.call('HSET', key, 'end', letter)
end
order(s[1], letter .. change .. id)
publish()
return 1
