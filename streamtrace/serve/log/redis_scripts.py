"""What the log does inside Redis: a script for each operation, of commands that Redis 7.0 has.

Rules that hold here:

* KEYS[1] is the hash of a run, KEYS[2] the stream of its entries: `<number>-0`, field `d`. When the
  run is over, `<last number>-1` is added, which is no entry: it wakes those who wait.
* A script that is sent again, since its answer was lost, does no more than once.
* Time is that of the server. Numbers are exact up to 2^53.
* What is refused is answered with a number under 0, all else with a list.
"""

from __future__ import annotations

UNKNOWN = -1
LOST = -2
EXISTS = -3

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

_TELL_END = """
local function tell_end(last)
  redis.call('XADD', KEYS[2], last .. '-1', 'end', '')
end
"""

# ARGV: owner, lease_ms, keep_ms, meta, last_id, key of the thread or ''
CREATE = f"""{_NOW}
local owner = redis.call('HGET', KEYS[1], 'owner')
if owner then
  if owner == ARGV[1] then return {{1}} end
  return {EXISTS}
end
local known_for = ARGV[2] + ARGV[3]
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'meta', ARGV[4], 'last', ARGV[5],
  'bytes', 0, 'lease', now + ARGV[2])
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[1], 'thread', ARGV[6], 'thread_until', now + 2 * known_for)
end
redis.call('PEXPIREAT', KEYS[1], now + known_for)
return {{1}}
"""

# What only the owner may do. ARGV: owner, lease_ms, keep_ms, ...
# The key of a thread is on another node of a cluster, and lives twice as long as the run would: it
# is renewed by the client when `hold` answers with it.
_HELD = f"""{_NOW}
local run = redis.call('HMGET', KEYS[1], 'owner', 'last', 'bytes', 'stop', 'outcome', 'orphaned',
  'thread', 'thread_until')
if not run[1] then return {UNKNOWN} end
local is_owner, is_over = run[1] == ARGV[1], run[5] or run[6]
local function hold(lease_ms)
  local till = now + lease_ms + ARGV[3]
  redis.call('HSET', KEYS[1], 'lease', now + lease_ms)
  redis.call('PEXPIREAT', KEYS[1], till)
  redis.call('PEXPIREAT', KEYS[2], till)
  if run[7] and till > tonumber(run[8]) then
    redis.call('HSET', KEYS[1], 'thread_until', now + 2 * (ARGV[2] + ARGV[3]))
    return run[7]
  end
  return false
end
"""

# ARGV: ..., max_events, max_bytes, after, entries
APPEND = f"""{_HELD}
if not is_owner or is_over then return {LOST} end
local last, count, bytes = tonumber(run[2]), redis.call('XLEN', KEYS[2]), tonumber(run[3])
if count == 0 then bytes = 0 end  -- the server was short of memory, or it was evicted
local max_events, max_bytes, after = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
for at = 7, #ARGV do
  local number = after + at - 6
  if number > last then
    redis.call('XADD', KEYS[2], string.format('%.0f-0', number), 'd', ARGV[at])
    last, count, bytes = number, count + 1, bytes + #ARGV[at]
  end
end
if after > last then last = after end
while count > max_events or bytes > max_bytes do
  local oldest, gone = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 64), {{}}
  for _, entry in ipairs(oldest) do
    if count <= max_events and bytes <= max_bytes then break end
    gone[#gone + 1] = entry[1]
    count, bytes = count - 1, bytes - #entry[2][2]
  end
  redis.call('XDEL', KEYS[2], unpack(gone))
end
redis.call('HSET', KEYS[1], 'last', string.format('%.0f', last), 'bytes', bytes)
return {{hold(ARGV[2]), last, run[4] and 1 or 0, count, bytes}}
"""

RENEW = f"""{_HELD}
if not is_owner or is_over then return {LOST} end
return {{hold(ARGV[2]), run[4] and 1 or 0}}
"""

# ARGV: ..., last_id, outcome
FINISH = f"""{_HELD}{_TELL_END}
if is_owner and run[5] then return {{false}} end
if not is_owner or is_over then return {LOST} end
local last = run[2]
if tonumber(ARGV[4]) > tonumber(last) then last = ARGV[4] end
redis.call('HSET', KEYS[1], 'last', last, 'outcome', ARGV[5])
tell_end(last)
return {{hold(0)}}
"""

# What anybody may do. Who finds that a lease ran out says so for all.
_SEEN = f"""{_NOW}{_TELL_END}
local run = redis.call('HMGET', KEYS[1], 'meta', 'last', 'outcome', 'stop', 'orphaned', 'lease',
  'bytes')
if not run[1] then return {UNKNOWN} end
local lease_left = run[6] - now
if not run[3] and not run[5] and lease_left <= 0 then
  run[5] = '1'
  redis.call('HSET', KEYS[1], 'orphaned', 1)
  tell_end(run[2])
  redis.call('PEXPIREAT', KEYS[2], redis.call('PEXPIRETIME', KEYS[1]))
end
"""

# ARGV: after, max_bytes; 0 for none
READ = f"""{_SEEN}
local entries, left = {{}}, tonumber(ARGV[2])
local from, most = '(' .. ARGV[1] .. '-0', 0
if left > 0 then
  local usual = math.max(1, run[7] / math.max(1, redis.call('XLEN', KEYS[2])))
  most = math.min(1000, math.ceil(left / usual) + 1)
end
while most > 0 do
  local found = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', most)
  for _, entry in ipairs(found) do
    if string.sub(entry[1], -2) == '-0' then
      left = left - #entry[2][2]
      if left < 0 and #entries > 0 then break end
      entries[#entries + 1] = string.sub(entry[1], 1, -3)
      entries[#entries + 1] = entry[2][2]
    end
  end
  if #found < most or left <= 0 then break end
  from = '(' .. found[#found][1]
end
return {{run[1], run[2], run[3], run[4] and 1 or 0, run[5] and 1 or 0, lease_left, entries}}
"""

STOP = f"""{_SEEN}
if run[3] or run[4] or run[5] then return {{0}} end
redis.call('HSET', KEYS[1], 'stop', 1)
return {{1}}
"""

# Wakes a reader that waits for its streams, of which it must know one more. KEYS: a stream of its
# own. ARGV: which time, how long to keep it, in ms
NUDGE = """
redis.pcall('XADD', KEYS[1], 'MAXLEN', 1, ARGV[1] .. '-0', 'n', '')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {1}
"""
