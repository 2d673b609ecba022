"""The Lua scripts of the store in Redis: what is kept under which key, and every change of it, each whole or not at all.

Keys, behind the prefix:

    s:<stream>           hash: owner, record, prompt (tokens), producer, epoch, n, expires (ms), ending, and
                         readers:<producer> (how many it has), watch (processes whose readers wait), idempotency, nonce,
                         continue, logprobs, edited, end (the letter of an order to end it), changes (how many were ordered;
                         each only where it applies), f<choice> (how the engine ended it)
    t:<stream>:<choice>  string: the token ids, 4 bytes each, so that its length says what is new in an append
    p:<stream>:<choice>  list: their log probabilities, packed
    e:<stream>:<choice>  list: the edits among them: the change's id (16 characters), where it ends, a space, and it, packed
    w:<stream>           list: changes that were ordered and not made: the id, and the change, packed
    d:<stream>           string: the owner; outlives the stream
    i:<hash>             hash: stream and digest of an idempotency key
    l:<producer>           string: the process that the producer is in; lives as long as the lease
    o:<producer>           sorted set: orders by the time given: "c" (cancel), "s" (stop) or "a" (adopt) before the stream, or "e"
                         and the id of a change (edit) before it
    c:<producer>           sorted set: its streams that go on without a reader, by when they may be offered to another
    producers              sorted set: producers by the end of their lease
    running, ended       sorted sets: streams by the end of their time
    sizes, tokens        hash and its sum: the tokens that each stream takes or may take
    boot                 hash: which run of the server this is, and since when it was seen

Messages to a process go to the channel wake:<process>: streams that changed, and "@" before producers that have orders. All times
are the server's. Scripts reach keys that they are not given, so that one server, or one primary, must have all of them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from app.streams.redis.reads import PACKING, READ, RECORD
from app.streams.store import MAX_CHANGES
from app.streams.store_bounds import StoreBounds


@dataclass(frozen=True)
class Script:
    """A script and the name that Redis gives it."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


class Scripts:
    """The scripts for logs with these bounds under one prefix."""

    def __init__(self, prefix: str, bounds: StoreBounds, tombstone_s: float) -> None:
        constants = {
            "LEASE": round(bounds.lease_s * 1000),
            "RETENTION": round(bounds.retention_s * 1000),
            "MAX_AGE": round(bounds.max_age_s * 1000),
            "TOMBSTONE": round(tombstone_s * 1000),
            "MAX_STREAMS": bounds.max_streams,
            "MAX_TOKENS": bounds.max_tokens,
            "MAX_CHANGES": MAX_CHANGES,
        }
        lines = [f"local P = '{prefix}'", *(f"local {name} = {value}" for name, value in constants.items())]
        head = "\n".join(lines) + _BASE
        self.create = Script(head + _ENDINGS + _CREATE)
        self.append = Script(head + _ENDINGS + _APPEND)
        self.renew = Script(head + PACKING + _ENDINGS + _RENEW)
        self.take = Script(head + _TAKE)
        self.order = Script(head + _ORDER)
        self.read = Script(head + PACKING + READ)
        self.record = Script(head + RECORD)
        self.count_readers = Script(head + _COUNT_READERS)


_BASE = """
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now = math.floor(now_us / 1000)

-- Leases. After a restart of the server the producers get the time of one lease to show themselves again.

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

-- Messages: one to each process, when the script is done.

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

-- Orders of one script stand in the order in which they are given.
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

-- 0 for a stream that was never there, -1 for one that is not there any more.
local function missing(id)
  return -redis.call('EXISTS', P .. 'd:' .. id)
end
"""

_ENDINGS = """
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
"""

# ARGV: producer, process, stream, owner, record, choices, tokens of the prompt, of all at most, key's hash, digest, nonce, flags,
# readers.
_CREATE = """
local producer, process, id, owner = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local n, prompt, size, idempotency, digest = ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[9], ARGV[10]
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
    if first[1] ~= id then return {'kept', first[1]} end
  end
end
local known = redis.call('HMGET', key, 'producer', 'ending')
if known[1] then
  -- The same call again, or a producer that tells anew what the store has lost a part of: what is here stays.
  if known[1] == producer and not known[2] then
    redis.call('HSET', key, 'epoch', 1)
    renew(producer, process)
  end
  return {'kept', id}
end
if not make_room() then return {'full'} end
renew(producer, process)
local expires = now + MAX_AGE
redis.call('HSET', key, 'owner', owner, 'record', ARGV[5], 'prompt', prompt, 'producer', producer, 'epoch', 1, 'n', n,
  'expires', expires, 'nonce', ARGV[11], 'readers:' .. producer, ARGV[13])
for flag in string.gmatch(ARGV[12], '%a+') do redis.call('HSET', key, flag, 1) end
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
"""

# ARGV: producer, process, appends, blobs. The appends are like `app.streams.store.Append`, but with numbers of blobs for the
# ending and for the log probabilities of the first token of a batch (the others' follow). Edits are their change's id,
# where they end, and the number of a blob.
_APPEND = """
local producer, blobs = ARGV[1], 3

local function starts_with(id, kept)
  return string.sub(kept, 1, #id) == id
end

local function edit(id, key, at, edits, expires)
  local list, waiting = P .. 'e:' .. at, P .. 'w:' .. id
  local here = redis.call('LRANGE', list, 0, -1)
  for _, one in ipairs(edits) do
    local known = false
    for _, kept in ipairs(here) do known = known or starts_with(one[1], kept) end
    if not known then redis.call('RPUSH', list, one[1] .. string.format('%.0f', one[2]) .. ' ' .. ARGV[blobs + one[3]]) end
    for _, change in ipairs(redis.call('LRANGE', waiting, 0, -1)) do
      if starts_with(one[1], change) then redis.call('LREM', waiting, 1, change) end
    end
  end
  redis.call('PEXPIREAT', list, expires)
  redis.call('HSET', key, 'edited', 1)
end

local function add(id, key, batch, expires)
  local choice, position, ids, first_logprob = batch[2], batch[3], batch[4], batch[7]
  local at = id .. ':' .. choice
  local known = redis.call('STRLEN', P .. 't:' .. at) / 4 - position
  if known < 0 then return false end
  if known < #ids then
    local packed = {}
    for i = known + 1, #ids do packed[#packed + 1] = struct.pack('<I4', ids[i]) end
    redis.call('APPEND', P .. 't:' .. at, table.concat(packed))
    if first_logprob then
      for i = known, #ids - 1 do redis.call('RPUSH', P .. 'p:' .. at, ARGV[blobs + first_logprob + i]) end
    end
    if known + position == 0 then
      redis.call('PEXPIREAT', P .. 't:' .. at, expires)
      redis.call('PEXPIREAT', P .. 'p:' .. at, expires)
    end
  end
  if batch[9] then edit(id, key, at, batch[9], expires) end
  if batch[5] then redis.call('HSET', key, 'f' .. choice, cmsgpack.pack({batch[5], batch[6]})) end
  return true
end

local function conclude(id, key, ending)
  local s = redis.call('HMGET', key, 'n', 'idempotency', 'prompt')
  local expires, size = now + RETENTION, s[3]
  redis.call('HSET', key, 'ending', ending, 'expires', expires)
  redis.call('PEXPIREAT', key, expires)
  for i = 0, s[1] - 1 do
    local tokens = P .. 't:' .. id .. ':' .. i
    size = size + redis.call('STRLEN', tokens) / 4
    redis.call('PEXPIREAT', tokens, expires)
    redis.call('PEXPIREAT', P .. 'p:' .. id .. ':' .. i, expires)
    redis.call('PEXPIREAT', P .. 'e:' .. id .. ':' .. i, expires)
  end
  redis.call('UNLINK', P .. 'w:' .. id)
  redis.call('PEXPIREAT', P .. 'd:' .. id, expires + TOMBSTONE)
  if s[2] then redis.call('PEXPIREAT', P .. 'i:' .. s[2], expires) end
  redis.call('ZREM', P .. 'running', id)
  redis.call('ZADD', P .. 'ended', expires, id)
  redis.call('ZREM', P .. 'c:' .. producer, id)
  resize(id, size)
end

local function take_in(id, key, batches, ending, expires)
  for _, batch in ipairs(batches) do
    -- A gap: the server has lost what it had confirmed. The producer is to tell it anew.
    if not add(id, key, batch, expires) then return false end
  end
  if ending then conclude(id, key, ARGV[blobs + ending]) end
  return true
end

renew(producer, ARGV[2])
local refused = {}
for _, append in ipairs(cmsgpack.unpack(ARGV[3])) do
  local id = append[1]
  local key = P .. 's:' .. id
  local s = redis.call('HMGET', key, 'producer', 'epoch', 'ending', 'expires', 'watch')
  if not s[1] then
    table.insert(refused, {id, 'unknown'})
  elseif s[1] ~= producer or tonumber(s[2]) ~= append[2] then
    table.insert(refused, {id, 'stale'})
  elseif not s[3] then
    if not take_in(id, key, append[3], append[4], s[4]) then table.insert(refused, {id, 'unknown'}) end
    wake_readers(id, s[5])
  end
end
publish()
if #refused == 0 then return false end
return cmsgpack.pack(refused)
"""

# ARGV: producer, process, orders that it has received, creations and takeovers of which it does not know whether they happened.
_RENEW = """
local producer = ARGV[1]
local orders = P .. 'o:' .. producer

local function undo(id, nonce)
  local key = P .. 's:' .. id
  local s = redis.call('HMGET', key, 'nonce', 'producer', 'continue', 'watch')
  if s[1] ~= nonce or s[2] ~= producer then return end
  if string.sub(nonce, 1, 1) == 'c' then
    forget(id)
    redis.call('DEL', P .. 'd:' .. id)
  else
    redis.call('HSET', key, 'producer', '')
    redis.call('ZREM', P .. 'c:' .. producer, id)
    if s[3] then continues_with('', id) end
  end
  wake_readers(id, s[4])
end

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

renew(producer, ARGV[2])
for _, received in ipairs(cmsgpack.unpack(ARGV[3])) do
  if redis.call('ZSCORE', orders, received[1]) == received[2] then redis.call('ZREM', orders, received[1]) end
end
for _, doubt in ipairs(cmsgpack.unpack(ARGV[4])) do undo(doubt[1], doubt[2]) end
if not in_grace() then
  for _, dead in ipairs(redis.call('ZRANGEBYSCORE', P .. 'producers', '-inf', now, 'LIMIT', 0, 64)) do offer(dead) end
end
publish()

-- The change that an order is for, packed; nil when it has been made or its stream is gone.
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
"""

# ARGV: producer, process, stream, nonce. Returns the new epoch; false for a stream that has a producer or has ended.
_TAKE = """
local producer, id, nonce = ARGV[1], ARGV[3], ARGV[4]
local key = P .. 's:' .. id
local s = redis.call('HMGET', key, 'producer', 'epoch', 'ending', 'nonce', 'continue', 'end', 'watch')
if not s[1] then return missing(id) end
if s[4] == nonce then return tonumber(s[2]) end
if s[3] or not is_gone(s[1]) then return false end
renew(producer, ARGV[2])
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
"""

# ARGV: stream, letter of the order, and for a change its id and it, packed. Returns 1 when it is given, 2 when the stream has
# ended, 3 when it was changed too often.
_ORDER = """
local id, letter, change = ARGV[1], ARGV[2], ARGV[3]
local key, waiting = P .. 's:' .. id, P .. 'w:' .. id
local s = redis.call('HMGET', key, 'producer', 'ending', 'expires', 'end', 'changes')
if not s[1] then return missing(id) end
if s[2] then return 2 end
-- Whoever takes the stream over from a producer that did not get this is told again.
if letter == 'e' then
  for _, kept in ipairs(redis.call('LRANGE', waiting, 0, -1)) do
    if string.sub(kept, 1, 16) == change then return 1 end
  end
  if tonumber(s[5] or 0) >= MAX_CHANGES then return 3 end
  redis.call('HINCRBY', key, 'changes', 1)
  redis.call('RPUSH', waiting, change .. ARGV[4])
  redis.call('PEXPIREAT', waiting, s[3])
elseif not s[4] then
  redis.call('HSET', key, 'end', letter)
end
order(s[1], letter .. change .. id)
publish()
return 1
"""

# ARGV: stream, producer whose readers they are, process, how many. Returns one more than the others have.
_COUNT_READERS = """
local producer = ARGV[2]
local key = P .. 's:' .. ARGV[1]
local s = redis.call('HMGET', key, 'n', 'ending')
if not s[1] then return missing(ARGV[1]) end
if s[2] then return 1 end
renew(producer, ARGV[3])
redis.call('HSET', key, 'readers:' .. producer, ARGV[4])
local others = 0
for _, field in ipairs(redis.call('HKEYS', key)) do
  local other = string.match(field, '^readers:(.*)$')
  if other and other ~= producer and not is_gone(other) then others = others + redis.call('HGET', key, field) end
end
return others + 1
"""
