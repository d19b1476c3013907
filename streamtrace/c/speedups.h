/* speedups: what happens once per chunk, and attributes as OTLP, compiled: the same as in Python,
   for less.

   Rules that hold here:

   * Optional. Without it (no compiler, or STREAMTRACE_PURE_PYTHON is set) the Python beside it does
     the same: `NotesInPython` in observe/notes.py, `sender_in_python` in observe/path.py,
     `count_gaps_in_python` in core/gaps.py, and `encode_attributes_in_python` in sinks/otlp.py.
     Tests run both, and compare them.
   * No decision of its own: what does not fit, what is no plain chunk, and what costs time is left
     to Python, through the methods that are named here.
   * The client comes first: a fault of ours (no memory) is reported as unraisable and leaves a
     chunk unnoted; the message is sent on all the same.

   Names here are those of the Python. Docstrings stand in speedups.pyi. What is seen by more than one
   file begins with `st_`. */

#ifndef STREAMTRACE_SPEEDUPS_H
#define STREAMTRACE_SPEEDUPS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <stdint.h>
#include <string.h>
#include <time.h>

#define ENTRY_BYTES 144 /* what an entry costs beside its body */
#define PIECE_BYTES 24  /* what a piece costs beside its bytes, of which there is twice the room */
#define MAX_PIECE_BYTES 1024
#define MIN_STALL_NS 100000 /* a `send` that takes less did not wait for its client */

/* Each adds what it defines to the module. -1 on failure. */
int st_add_alike(PyObject *module);
int st_add_notes(PyObject *module);
int st_add_sender(PyObject *module);
int st_ready_sending(void);
int st_add_gaps(PyObject *module);
int st_add_otlp(PyObject *module);
int st_add_clock(PyObject *module);

/* --- clock.c */

/* What tests read the time from, if anything. */
extern PyObject *st_clock_of_tests;
int64_t st_told_ns(void);

/* The clock of time.perf_counter_ns. */
static inline int64_t
st_now_ns(void)
{
    if (st_clock_of_tests != NULL) {
        return st_told_ns();
    }
#if defined(__linux__) /* where it is CLOCK_MONOTONIC; Python takes more steps to it */
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
#elif PY_VERSION_HEX >= 0x030D0000
    PyTime_t now;
    return PyTime_PerfCounterRaw(&now) < 0 ? 0 : (int64_t)now;
#else
    return (int64_t)_PyTime_GetPerfCounter();
#endif
}

/* --- alike.c: chunks of one shape */

typedef struct {
    PyObject_HEAD
    PyObject *before;
    PyObject *behind;
    int64_t *times;
    char *pieces;        /* each ended by a line end, which none of them holds */
    Py_ssize_t count;
    Py_ssize_t position; /* of the next one to be read */
    Py_ssize_t offset;   /* of its piece */
    Py_ssize_t pieces_size;
    int is_ascii;
} Alike;

extern PyTypeObject st_Alike_Type;

/* The bytes of a chunk. */
PyObject *st_join(PyObject *before, const char *piece, Py_ssize_t size, PyObject *behind);

/* --- notes.c: what the path leaves behind */

typedef struct {
    PyObject_HEAD
    PyObject *entries; /* [at_ns, body, …], NULL while there are none */
    PyObject *last;    /* the chunk before, as long as a shape is looked for */
    PyObject *before;  /* the shape: what chunks have in common around one string */
    PyObject *behind;
    int64_t *times;    /* of the chunks of this shape since the last entry */
    char *pieces;      /* and what differs in them, as in Alike */
    Py_ssize_t count;
    Py_ssize_t times_room;
    Py_ssize_t pieces_size;
    Py_ssize_t pieces_room;
    Py_ssize_t room_bytes;
    long long stall_ns;
    long long longest_stall_ns;
    int tries;
    int is_ascii;
} Notes;

extern PyTypeObject st_Notes_Type;

/* Note a chunk of an open stream. 1 if it was noted, at `*at_ns`; 0 if there is no room for it; -1
   on failure. */
int st_note_chunk(Notes *self, PyObject *body, int64_t *at_ns);
void st_add_stall(Notes *self, long long stall_ns);

/* --- sender.c: `send`, as the app gets it */

typedef struct {
    PyObject_HEAD
    PyObject *send;     /* the server's */
    PyObject *path;     /* an HttpPath: for all but the chunks of bytes of an open stream */
    PyObject *exchange;
    PyObject *shut;     /* the tap where there is no open stream */
    Notes *notes;       /* those of the stream; NULL where none is open */
    vectorcallfunc vectorcall;
} Sender;

/* --- sending.c: a message on its way */

PyObject *st_sending(Sender *sender, PyObject *message);

#endif
