"""The part of the Promela model that is the same for every scope, to be filled in by `to_promela`.

A transition is one `d_step`. C is used to look something up, never to change SPIN's state: `look` leaves what it
found in `to` and `says`. What a `d_step` notes for itself it wipes out at its end: notes would make states differ.
(SPIN takes a call in a `c_expr` for a side effect, unless the function's name stands in parentheses.)
"""

from __future__ import annotations

MODEL = """\
/* The handover, one scope of it. A node's own transitions stand in handover.h; what may happen when, stands here. */
{defined}
#define NOTHING 0
#define REGISTERS -1
#define NEW_LOG 0

c_decl {{
  \\#include "handover.h"
}}

int node[NODES] = {nodes};
int store = {store};
byte left[TOGETHER + 1] = {left};
chan queue[NODES] = [LONGEST] of {{ short }};

/* Notes, 0 between two steps. */
int put;
short batch;
byte length, each, found;

/* What is asked, by name: each stays false, and is asserted where it was found not to hold. */
bool decryptable, no_key_reuse, sound, no_wedge, known;

#define HERE now.node[PNode->_pid]
#define WIPED put = 0; batch = 0; length = 0; each = 0; found = 0
#define LOOK(what, a, b) \\
  if :: c_expr {{ ! (look)(what, a, b) }} -> assert(known) :: else fi
#define GO(what, b) LOOK(what, HERE, b); node[_pid] = c_expr {{ to }}; put = c_expr {{ says }}
#define MAY(fault) (left[fault] && left[TOGETHER])
#define SPEND(fault) left[fault]--; left[TOGETHER]--

/* A batch goes to every queue; a node's own progress not to its own. */
inline tell(all) {{
  for (each : 0 .. NODES - 1) {{
    if
    :: batch != NOTHING && (all || each != _pid) -> queue[each]!batch
    :: else
    fi
  }}
}}

inline write() {{
  LOOK(WRITE, now.store, now.put);
  store = c_expr {{ to }};
  batch = c_expr {{ says }};
  found = c_expr {{ ! own[now.put] }};
  tell(found)
}}

/* A node writes what the store lacks of it: its keys' records, and its own. */
inline register() {{
  do
  :: true ->
    GO(REGISTER, now.store);
    if
    :: put == NOTHING -> break
    :: else -> write()
    fi
  od
}}

inline concluded() {{
  if
  :: put == NOTHING
  :: put == REGISTERS -> register()
  :: else -> write()
  fi
}}

inline forgets_queue(whose) {{
  do
  :: nempty(queue[whose]) -> queue[whose]?batch
  :: empty(queue[whose]) -> break
  od
}}

inline reads_new_log() {{
  forgets_queue(_pid);
  GO(RELIST, now.store);
  concluded()
}}

/* What the old log said may still arrive, then the end of it. */
inline cut(whose) {{
  length = len(queue[whose]);
  found = 0;
  do
  :: length > 0 ->
    queue[whose]?batch;
    length--;
    found = (found || batch == NEW_LOG);
    if
    :: found
    :: else -> queue[whose]!batch
    fi
  :: else -> break
  od;
  queue[whose]!NEW_LOG
}}

#define ALONE(what) GO(what, 0); concluded(); WIPED
#define STORED(what) \\
  LOOK(what, now.store, PNode->_pid); store = c_expr {{ to }}; batch = c_expr {{ says }}; tell(true); WIPED
#define STARTS(what, fault) \\
  d_step {{ MAY(fault) -> SPEND(fault); GO(what, now.store); forgets_queue(_pid); register(); WIPED }}
#define LOADS(key) \\
  d_step {{ c_expr {{ (may_load)(HERE, now.store, key) }} -> \\
    if :: c_expr {{ ! (registered)(now.store, key) }} -> put = c_expr {{ keys[key] }}; write() :: else fi; \\
    GO(LOAD, key); WIPED }}
#define VANISHES(which) \\
  d_step {{ MAY(VANISHS) && c_expr {{ facts[HERE].kernel > which }} -> SPEND(VANISHS); GO(VANISH, which); WIPED }}

active [NODES] proctype Node() {{
  do
  :: d_step {{ c_expr {{ facts[HERE].pending }} -> ALONE(PERFORM) }}
  :: d_step {{ c_expr {{ facts[HERE].decides }} -> ALONE(DECIDE) }}
  :: d_step {{ nempty(queue[_pid]) && c_expr {{ ! facts[HERE].pending }} ->
      queue[_pid]?batch;
      if
      :: batch == NEW_LOG -> reads_new_log()
      :: else -> GO(HEAR, now.batch); concluded()
      fi;
      WIPED }}
  :: d_step {{ queue[_pid]??[NEW_LOG] && !queue[_pid]?[NEW_LOG] && c_expr {{ ! facts[HERE].pending }} ->
      reads_new_log(); WIPED }}
  :: d_step {{ c_expr {{ (may_notice)(HERE, now.store) }} -> ALONE(NOTICE) }}
  :: d_step {{ RESTORES && c_expr {{ stores[now.store].stone[PNode->_pid] }} -> STORED(RESTORE) }}
  :: d_step {{ c_expr {{ stores[now.store].silent >> PNode->_pid & 1 }} -> STORED(BEAT) }}
{loads}
  :: STARTS(CRASH, CRASHS)
  :: STARTS(REBOOT, REBOOTS)
  :: STARTS(MOVE, MOVES)
  :: d_step {{ MAY(REFUSES) && c_expr {{ facts[HERE].installs }} -> SPEND(REFUSES); ALONE(REFUSE) }}
{vanishings}
  :: d_step {{ MAY(EXPIRES) && c_expr {{ ! (stores[now.store].silent >> PNode->_pid & 1) }} ->
      SPEND(EXPIRES); STORED(EXPIRE) }}
  :: d_step {{ MAY(DELETES) && c_expr {{ stores[now.store].here >> PNode->_pid & 1 }} ->
      SPEND(DELETES); STORED(DELETE) }}
  :: d_step {{ MAY(REMOVES) && c_expr {{ stores[now.store].here >> PNode->_pid & 1 }} ->
      SPEND(REMOVES); STORED(REMOVE) }}
  od
}}

active proctype Around() {{
  do
  :: d_step {{ c_expr {{ (any_ages)(now.node) }} ->
      for (each : 0 .. NODES - 1) {{ LOOK(TICK, now.node[now.each], 0); node[each] = c_expr {{ to }} }};
      WIPED }}
  :: d_step {{ MAY(WIPES) -> SPEND(WIPES);
      for (each : 0 .. NODES - 1) {{ cut(each) }};
      LOOK(WIPE, now.store, 0); store = c_expr {{ to }}; WIPED }}
  od
}}

#ifndef UNJUDGED
/* Asked in every state, without a transition where all is well. Where nothing can happen any more, all is done. */
active proctype Judge() {{
  do
  :: d_step {{ c_expr {{ (undecryptable)(now.node) }} -> assert(decryptable) }}
  :: d_step {{ c_expr {{ (any_reused)(now.node) }} -> assert(no_key_reuse) }}
  :: d_step {{ c_expr {{ (any_unsound)(now.node) }} -> assert(sound) }}
  :: timeout && c_expr {{ ! (at_rest)(now.node, RESTORES ? -1 : now.store) }} -> assert(no_wedge)
  od
}}
#endif
"""

HEADER = """\
/* What the nodes of a scope do alone, and what they write: looked up by handover.pml. Numbers stand for whole nodes,
   contents of the store, and batches of events. */
#include <stdlib.h>

enum {{ NODES_HERE = {nodes}, NEWEST = {newest} }};
typedef unsigned long long Idents;

/* What happens, to which node or store, with what; what it becomes; what it writes or tells. In order. */
typedef struct {{ int what, who, with, to, says; }} Row;
static const Row rows[] = {{
{rows}
}};

/* Which node, its life and the lives among which it rests; what it can do; what is wrong with it alone; SAs. */
typedef struct {{
  int at, life, rests;
  unsigned char pending, decides, ages, barred, held, kernel, installs, reused, unsound;
  Idents sends, receives, lost, again, remade;
}} Facts;
static const Facts facts[] = {{
{facts}
}};

/* Sets of bits, of generations and of nodes; and the lives that tombstones stand for. */
typedef struct {{ unsigned keys, here, silent; unsigned char stone[NODES_HERE]; }} Held;
static const Held stores[] = {{
{stores}
}};

static const char own[] = {own};
static const int keys[] = {keys};
static const Idents towards[] = {towards};

static int to, says;

static int compared(const void *one, const void *other) {{
  const Row *a = one, *b = other;
  if (a->what != b->what) return a->what < b->what ? -1 : 1;
  if (a->who != b->who) return a->who < b->who ? -1 : 1;
  return a->with < b->with ? -1 : a->with > b->with;
}}

static int look(int what, int who, int with) {{
  const Row wanted = {{ what, who, with, 0, 0 }};
  const Row *row = bsearch(&wanted, rows, sizeof rows / sizeof *rows, sizeof *rows, compared);
  if (!row) return 0;
  to = row->to;
  says = row->says;
  return 1;
}}

/* A generation is counted up when its first key is loaded: nobody skips one that is not registered. */
static int may_load(int node, int store, int key) {{
  int newest = facts[node].held;
  for (int each = newest + 1; each <= NEWEST; each++)
    if (stores[store].keys >> each & 1) newest = each;
  return key > facts[node].held && key <= newest + 1;
}}

static int registered(int store, int key) {{ return stores[store].keys >> key & 1; }}

static int may_notice(int node, int store) {{
  const Facts *it = &facts[node];
  return it->barred && !it->pending && stores[store].stone[it->at] < it->life;
}}

static int any_ages(const int *node) {{
  for (int at = 0; at < NODES_HERE; at++) if (facts[node[at]].ages) return 1;
  return 0;
}}

static int any_reused(const int *node) {{
  for (int at = 0; at < NODES_HERE; at++) if (facts[node[at]].reused) return 1;
  return 0;
}}

static int any_unsound(const int *node) {{
  for (int at = 0; at < NODES_HERE; at++) if (facts[node[at]].unsound) return 1;
  return 0;
}}

/* Sent, or about to be, and not to be received, if no fault took that away; or swallowed by a replay window. */
static int misses(const Facts *sender, const Facts *receiver) {{
  return (sender->sends & towards[receiver->at] & ~(receiver->receives | receiver->lost))
    || (sender->again & receiver->receives & ~receiver->remade);
}}

static int undecryptable(const int *node) {{
  for (int a = 0; a < NODES_HERE; a++)
    for (int b = 0; b < NODES_HERE; b++)
      if (a != b && misses(&facts[node[a]], &facts[node[b]])) return 1;
  return 0;
}}

/* Where a tombstone stands for good, it is for the explorer to say what rest is. */
static int at_rest(const int *node, int store) {{
  int lives = 0;
  for (int at = 0; at < NODES_HERE; at++) if (store >= 0 && stores[store].stone[at]) return 1;
  for (int at = 0; at < NODES_HERE; at++) lives += facts[node[at]].life << 4 * at;
  for (int at = 0; at < NODES_HERE; at++) if (facts[node[at]].rests != lives) return 0;
  return 1;
}}
"""
