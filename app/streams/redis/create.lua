-- `create`. `size` is the most tokens that the stream may take, `idempotency` the hash of the key or '', `flags` are names of
-- fields. Returns 'kept' and the id of the stream, 'conflict' or 'full'.
local producer, process, id, owner, record, n, prompt, size = unpack(ARGV, 1, 8)
local idempotency, digest, nonce, flags, readers = unpack(ARGV, 9, 13)
size = tonumber(size)
local key = P .. 's:' .. id

local function make_room()
  for _, name in ipairs({'running', 'ended'}) do
    for _, old in ipairs(redis.call('ZRANGEBYSCORE', P .. name, '-inf', now, 'LIMIT', 0, 64)) do forget(old) end
  end
  while redis.call('ZCARD', P .. 'running') + redis.call('ZCARD', P .. 'ended') >= MAX_STREAMS
      or (redis.call('GET', P .. 'tokens') or 0) + size > MAX_TOKENS do
    local oldest = redis.call('ZRANGE', P .. 'ended', 0, 0)[1]
    if not oldest then return false end
    forget(oldest)
  end
  return true
end

in_grace()
if idempotency ~= '' then
  local first = redis.call('HMGET', P .. 'i:' .. idempotency, 'stream', 'digest')
  if first[1] and redis.call('EXISTS', P .. 's:' .. first[1]) == 1 then
    if first[2] ~= digest then return {'conflict'} end
    if first[1] ~= id then
      redis.call('HSET', P .. 's:' .. first[1], 'claimed', 1)
      return {'kept', first[1]}
    end
  end
end
local known = redis.call('HMGET', key, 'producer', 'ending')
if known[1] then
  -- The same call again, or a producer that repeats a stream of which the store has lost a part: what is here stays.
  if known[1] == producer and not known[2] then
    redis.call('HSET', key, 'epoch', 1)
    renew(producer, process)
  end
  return {'kept', id}
end
if not make_room() then return {'full'} end
renew(producer, process)
local expires = now + MAX_AGE
redis.call('HSET', key, 'owner', owner, 'record', record, 'prompt', prompt, 'producer', producer, 'epoch', 1, 'n', n,
  'expires', expires, 'nonce', nonce, 'readers:' .. producer, readers)
for flag in string.gmatch(flags, '%a+') do redis.call('HSET', key, flag, 1) end
redis.call('PEXPIREAT', key, expires)
redis.call('SET', P .. 'd:' .. id, owner, 'PX', MAX_AGE + TOMBSTONE)
if idempotency ~= '' then
  redis.call('HSET', key, 'idempotency', idempotency)
  redis.call('HSET', P .. 'i:' .. idempotency, 'stream', id, 'digest', digest)
  redis.call('PEXPIREAT', P .. 'i:' .. idempotency, expires)
end
redis.call('ZADD', P .. 'running', expires, id)
resize(id, size)
if redis.call('HEXISTS', key, 'continue') == 1 then continues_with(producer, id) end
return {'kept', id}
