-- `renew`. `received` are the packed orders that the last call returned, `doubts` the packed streams and nonces of creations and
-- takeovers that are to be undone if they happened. Returns the packed orders: member, score, change.
local producer, process, received, doubts = unpack(ARGV, 1, 4)
local orders = P .. 'o:' .. producer

local function undo(id, nonce)
  local key = P .. 's:' .. id
  local s = redis.call('HMGET', key, 'nonce', 'producer', 'continue', 'watch', 'claimed')
  if s[1] ~= nonce or s[2] ~= producer then return end
  if string.sub(nonce, 1, 1) == 'c' and not s[5] then
    forget(id)
    redis.call('DEL', P .. 'd:' .. id)
  else
    -- Another producer may go on. A creation is kept so when a second call with its idempotency key has been given the stream.
    redis.call('HSET', key, 'producer', '')
    if s[5] then redis.call('HDEL', key, 'readers:' .. producer) end
    redis.call('ZREM', P .. 'c:' .. producer, id)
    if s[3] then continues_with('', id) end
  end
  wake_readers(id, s[4])
end

-- Orders the producer to adopt the streams of a dead one.
local function offer(dead)
  local streams = P .. 'c:' .. dead
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', streams, '-inf', now, 'LIMIT', 0, 32)) do
    local s = redis.call('HMGET', P .. 's:' .. id, 'producer', 'ending')
    if s[1] == dead and not s[2] then
      redis.call('ZADD', streams, now + LEASE, id)
      order(producer, 'a' .. id)
    else
      redis.call('ZREM', streams, id)
    end
  end
  if redis.call('EXISTS', streams) == 0 then
    redis.call('ZREM', P .. 'producers', dead)
    redis.call('DEL', P .. 'o:' .. dead)
  end
end

renew(producer, process)
for _, given in ipairs(cmsgpack.unpack(received)) do
  if redis.call('ZSCORE', orders, given[1]) == given[2] then redis.call('ZREM', orders, given[1]) end
end
for _, doubt in ipairs(cmsgpack.unpack(doubts)) do undo(doubt[1], doubt[2]) end
if not in_grace() then
  for _, dead in ipairs(redis.call('ZRANGEBYSCORE', P .. 'producers', '-inf', now, 'LIMIT', 0, 64)) do offer(dead) end
end
publish()

-- The change that an order is for, packed; nil when it is made or its stream is gone.
local function change_of(member)
  local id = string.sub(member, 2, 17)
  for _, kept in ipairs(redis.call('LRANGE', P .. 'w:' .. string.sub(member, 18), 0, -1)) do
    if string.sub(kept, 1, 16) == id then return string.sub(kept, 17) end
  end
end

local given = {}
local all = redis.call('ZRANGE', orders, 0, 255, 'WITHSCORES')
for i = 1, #all, 2 do
  local member, change = all[i], NIL
  if string.sub(member, 1, 1) == 'e' then change = change_of(member) end
  if change then
    given[#given + 1] = array({pack(member), pack(all[i + 1]), change})
  else
    redis.call('ZREM', orders, member)
  end
end
return array(given)
