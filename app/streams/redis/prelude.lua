-- What all scripts of the store in Redis begin with. Each method of the store is one script, so it happens whole or not at all.
--
-- `scripts.py` puts constants before this text: P (the prefix of all keys), LEASE, RETENTION, MAX_AGE and TOMBSTONE in
-- milliseconds, MAX_STREAMS, MAX_TOKENS, MAX_CHANGES.
--
-- Keys, after the prefix:
--
--     s:<stream>           hash: owner, record, prompt (tokens), producer, epoch, n, expires (ms), ending, and
--                          readers:<producer> (how many it has), watch (processes whose readers wait), idempotency, nonce,
--                          continue, logprobs, edited, end (the letter of an order to end it), changes (how many were
--                          ordered), claimed (given to a second caller with its idempotency key; each only where it
--                          applies), f<choice> (how the engine ended it)
--     t:<stream>:<choice>  string: the token ids, 4 bytes each, so that its length says what is new in an append
--     p:<stream>:<choice>  list: their log probabilities, packed
--     e:<stream>:<choice>  list: the edits among them: the change's id (16 characters), where the edit ends, a space, and the
--                          edit, packed
--     w:<stream>           list: changes that were ordered and not made: the id, and the change, packed
--     d:<stream>           string: the owner; outlives the stream
--     i:<hash>             hash: stream and digest of an idempotency key
--     l:<producer>         string: the process of the producer; lives as long as the lease
--     o:<producer>         sorted set: orders by the time given: "c" (cancel), "s" (stop) or "a" (adopt) and the stream, or "e"
--                          (edit), the id of a change, and the stream
--     c:<producer>         sorted set: its streams that go on without a reader, by when another producer may be offered them
--     producers            sorted set: producers by the end of their lease
--     running, ended       sorted sets: streams by the end of their time
--     sizes, tokens        hash and its sum: the tokens that each stream takes or may take
--     boot                 hash: which run of the server this is, and since when it was seen
--
-- Messages to a process go to the channel wake:<process>: streams that changed, and "@" with producers that have orders. All
-- times are the server's. Scripts use keys that they do not declare, so one server, or one primary, must have all of them.

local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now = math.floor(now_us / 1000)

-- Leases. For the time of one lease after a restart of the server, every producer counts as alive.

local function in_grace()
  local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
  local boot = redis.call('HMGET', P .. 'boot', 'run', 'since')
  if boot[1] ~= run then
    redis.call('HSET', P .. 'boot', 'run', run, 'since', now)
    return true
  end
  return now - boot[2] < LEASE
end

local function renew(producer, process)
  redis.call('SET', P .. 'l:' .. producer, process, 'PX', LEASE)
  redis.call('ZADD', P .. 'producers', now + LEASE, producer)
end

local gone = {}
local function is_gone(producer)
  if gone[producer] == nil then
    gone[producer] = redis.call('EXISTS', P .. 'l:' .. producer) == 0 and not in_grace()
  end
  return gone[producer]
end

-- Messages: a script sends one to each process, at its end.

local wakes = {}
local function wake(process, name)
  wakes[process] = wakes[process] or {}
  table.insert(wakes[process], name)
end

local function wake_readers(id, watch)
  if watch then
    redis.call('HDEL', P .. 's:' .. id, 'watch')
    for process in string.gmatch(watch, '%S+') do wake(process, id) end
  end
end

local function publish()
  for process, names in pairs(wakes) do
    redis.call('PUBLISH', P .. 'wake:' .. process, cmsgpack.pack(names))
  end
end

-- Orders. Those of one script keep the order in which they are given.

local given_at = now_us
local function order(producer, member)
  redis.call('ZADD', P .. 'o:' .. producer, string.format('%.0f', given_at), member)
  given_at = given_at + 1
  redis.call('PEXPIRE', P .. 'o:' .. producer, MAX_AGE)
  local process = redis.call('GET', P .. 'l:' .. producer)
  if process then wake(process, '@' .. producer) end
end

local function continues_with(producer, id)
  redis.call('ZADD', P .. 'c:' .. producer, 0, id)
  redis.call('ZADD', P .. 'producers', 'NX', 0, producer)
end

-- The status of a stream that is not kept: 0 if it never was, -1 if it is past its retention.
local function missing(id)
  return -redis.call('EXISTS', P .. 'd:' .. id)
end

-- Sizes and removal.

local function resize(id, size)
  local before = redis.call('HGET', P .. 'sizes', id) or 0
  redis.call('HSET', P .. 'sizes', id, size)
  redis.call('INCRBY', P .. 'tokens', size - before)
end

local function forget(id)
  local key = P .. 's:' .. id
  local s = redis.call('HMGET', key, 'n', 'producer', 'idempotency')
  if s[1] then
    redis.call('UNLINK', key)
    for i = 0, s[1] - 1 do
      local at = id .. ':' .. i
      redis.call('UNLINK', P .. 't:' .. at, P .. 'p:' .. at, P .. 'e:' .. at)
    end
    redis.call('UNLINK', P .. 'w:' .. id)
    redis.call('ZREM', P .. 'c:' .. s[2], id)
    if s[3] then redis.call('UNLINK', P .. 'i:' .. s[3]) end
  end
  redis.call('ZREM', P .. 'running', id)
  redis.call('ZREM', P .. 'ended', id)
  resize(id, 0)
  redis.call('HDEL', P .. 'sizes', id)
end

-- Packing by hand, for replies that contain values which are kept packed.
local NIL = '\192'
local pack = cmsgpack.pack

local function array(parts)
  return '\221' .. struct.pack('>I4', #parts) .. table.concat(parts)
end
