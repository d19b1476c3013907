/* What happens once per chunk, compiled: the same as in Python, for less.

   Rules that hold here:

   * Optional. Without it (no compiler, or STREAMTRACE_PURE_PYTHON is set) the Python beside it does
     the same: `Notes` in observe/notes.py, `observed_send` in observe/path.py, and the counting of
     gaps in core/gaps.py. Tests run both, and compare them.
   * No decision of its own: what does not fit, what is no plain chunk, and what costs time is left
     to Python, through the methods that are named here.
   * The client comes first: a fault of ours (no memory) is reported as unraisable and leaves a
     chunk unnoted; the message is sent on all the same.

   Names here are those of the Python. Docstrings stand in speedups.pyi. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ENTRY_BYTES 144    /* what an entry costs beside its body */
#define PIECE_BYTES 24     /* what a piece costs beside its bytes, of which there is twice the room */
#define MAX_PIECE_BYTES 1024
#define MAX_SHAPE_BYTES 4096
#define MAX_TRIES 16       /* shapes that are guessed until the notes are taken */
#define MAX_BUCKETS 64

static PyObject *str_body, *str_more_body, *str_make_room, *str_send_unusual, *str_tap,
    *str_disconnected_ns, *str_throw, *str_close;

/* What is in the bytes of a piece: anything that does not stand for itself inside of a JSON string
   (see `_SAFE` in observe/template.py), and anything but ASCII. No way out of the loop, so that
   compilers make it one over many bytes at a time. */
enum { UNSAFE = 1, WIDE = 0x80 };

static inline int
kinds_of(const char *piece, Py_ssize_t size)
{
    unsigned char kinds = 0;
    for (Py_ssize_t i = 0; i < size; i++) {
        unsigned char byte = (unsigned char)piece[i];
        kinds |= (byte < 0x20) | (byte == '"') | (byte == '\\') | (byte & WIDE);
    }
    return kinds;
}

/* What tests read the time from, if anything: a time that cannot be told is 0. */
static PyObject *clock_of_tests;

static int64_t
told_ns(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *told = PyObject_CallNoArgs(clock_of_tests);
    int64_t at_ns = told == NULL ? 0 : PyLong_AsLongLong(told);
    Py_XDECREF(told);
    PyErr_Restore(type, value, traceback);
    return at_ns;
}

/* The clock of time.perf_counter_ns. */
static inline int64_t
now_ns(void)
{
    if (clock_of_tests != NULL) {
        return told_ns();
    }
#if PY_VERSION_HEX >= 0x030D0000
    PyTime_t now;
    return PyTime_PerfCounterRaw(&now) < 0 ? 0 : (int64_t)now;
#else
    return (int64_t)_PyTime_GetPerfCounter();
#endif
}

/* --- Alike: chunks of one shape ---------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *before;
    PyObject *behind;
    int64_t *times;
    char *pieces;           /* each ended by a line end, which none of them holds */
    Py_ssize_t count;
    Py_ssize_t position;    /* of the next one to be read */
    Py_ssize_t offset;      /* of its piece */
    Py_ssize_t pieces_size;
    int is_ascii;
} Alike;

static void
Alike_dealloc(Alike *self)
{
    Py_XDECREF(self->before);
    Py_XDECREF(self->behind);
    PyMem_Free(self->times);
    PyMem_Free(self->pieces);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static Py_ssize_t
Alike_length(PyObject *op)
{
    Alike *self = (Alike *)op;
    return self->count - self->position;
}

static PyObject *
join(PyObject *before, const char *piece, Py_ssize_t size, PyObject *behind)
{
    Py_ssize_t front = PyBytes_GET_SIZE(before), back = PyBytes_GET_SIZE(behind);
    PyObject *body = PyBytes_FromStringAndSize(NULL, front + size + back);
    if (body != NULL) {
        char *to = PyBytes_AS_STRING(body);
        memcpy(to, PyBytes_AS_STRING(before), front);
        memcpy(to + front, piece, size);
        memcpy(to + front + size, PyBytes_AS_STRING(behind), back);
    }
    return body;
}

static PyObject *
Alike_read(Alike *self, PyObject *Py_UNUSED(ignored))
{
    if (self->position >= self->count) {
        PyErr_SetString(PyExc_IndexError, "all chunks were read");
        return NULL;
    }
    const char *piece = self->pieces + self->offset;
    const char *end = memchr(piece, '\n', self->pieces_size - self->offset);
    PyObject *body = join(self->before, piece, end - piece, self->behind);
    if (body == NULL) {
        return NULL;
    }
    PyObject *read = Py_BuildValue("(LN)", (long long)self->times[self->position], body);
    if (read != NULL) {
        self->offset += end - piece + 1;
        self->position++;
    }
    return read;
}

static PyObject *
times_list(const int64_t *times, Py_ssize_t count)
{
    PyObject *list = PyList_New(count);
    for (Py_ssize_t i = 0; list != NULL && i < count; i++) {
        PyObject *at_ns = PyLong_FromLongLong(times[i]);
        if (at_ns == NULL) {
            Py_CLEAR(list);
        }
        else {
            PyList_SET_ITEM(list, i, at_ns);
        }
    }
    return list;
}

/* The pieces as one text; NULL without an exception if one of them is no UTF-8 by itself. */
static PyObject *
joined_text(const char *pieces, Py_ssize_t size, Py_ssize_t count, int is_ascii)
{
    if (is_ascii) {
        PyObject *text = PyUnicode_New(size - count, 127);
        if (text != NULL) {
            char *to = (char *)PyUnicode_1BYTE_DATA(text);
            for (const char *end, *from = pieces; from < pieces + size; from = end + 1) {
                end = memchr(from, '\n', pieces + size - from);
                memcpy(to, from, end - from);
                to += end - from;
            }
        }
        return text;
    }
    PyObject *lines = PyUnicode_DecodeUTF8(pieces, size, NULL);
    if (lines == NULL) {
        if (PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
            PyErr_Clear();
        }
        return NULL;
    }
    PyObject *text = NULL, *end = PyUnicode_FromString("\n"), *none = PyUnicode_FromString("");
    if (end != NULL && none != NULL) {
        text = PyUnicode_Replace(lines, end, none, -1);
    }
    Py_XDECREF(end);
    Py_XDECREF(none);
    Py_DECREF(lines);
    return text;
}

static PyObject *
Alike_read_texts(Alike *self, PyObject *const *args, Py_ssize_t nargs)
{
    Py_ssize_t most = nargs == 2 ? PyLong_AsSsize_t(args[0]) : -1;
    Py_ssize_t most_bytes = nargs == 2 ? PyLong_AsSsize_t(args[1]) : -1;
    if (most < 1 || most_bytes < 1) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "read_texts() takes most and most_bytes, above 0");
        }
        return NULL;
    }
    Py_ssize_t left = self->count - self->position, count = 0;
    const char *begin = self->pieces + self->offset, *end = begin;
    const char *all = self->pieces + self->pieces_size;
    if (left <= most && all - begin <= most_bytes) {
        count = left;
        end = all;
    }
    for (; count < left && count < most; count++) {
        const char *next = (const char *)memchr(end, '\n', all - end) + 1;
        if (count && next - begin > most_bytes) {
            break;
        }
        end = next;
    }
    PyObject *text = joined_text(begin, end - begin, count, self->is_ascii);
    if (text == NULL) {
        if (PyErr_Occurred()) {
            return NULL;
        }
        Py_RETURN_NONE;
    }
    PyObject *times = times_list(self->times + self->position, count);
    if (times == NULL) {
        Py_DECREF(text);
        return NULL;
    }
    Py_ssize_t around = PyBytes_GET_SIZE(self->before) + PyBytes_GET_SIZE(self->behind);
    Py_ssize_t size = end - begin - count + count * around;
    self->position += count;
    self->offset += end - begin;
    return Py_BuildValue("(NNn)", text, times, size);
}

static PyMethodDef Alike_methods[] = {
    {"read", (PyCFunction)Alike_read, METH_NOARGS, NULL},
    {"read_texts", (PyCFunction)(void (*)(void))Alike_read_texts, METH_FASTCALL, NULL},
    {NULL},
};

static PyMemberDef Alike_members[] = {
    {"before", T_OBJECT_EX, offsetof(Alike, before), READONLY, NULL},
    {"behind", T_OBJECT_EX, offsetof(Alike, behind), READONLY, NULL},
    {NULL},
};

static PySequenceMethods Alike_as_sequence = {.sq_length = Alike_length};

static PyTypeObject Alike_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "streamtrace.speedups.Alike",
    .tp_basicsize = sizeof(Alike),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)Alike_dealloc,
    .tp_methods = Alike_methods,
    .tp_members = Alike_members,
    .tp_as_sequence = &Alike_as_sequence,
};

/* --- Notes: what the path leaves behind --------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *entries;      /* [at_ns, body, …], NULL while there are none */
    PyObject *last;         /* the chunk before, as long as a shape is looked for */
    PyObject *before;       /* the shape: what chunks have in common around one string */
    PyObject *behind;
    int64_t *times;         /* of the chunks of this shape since the last entry */
    char *pieces;           /* and what differs in them, as in Alike */
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

static PyTypeObject Notes_Type;

static int
Notes_traverse(Notes *self, visitproc visit, void *arg)
{
    Py_VISIT(self->entries);
    return 0;
}

static int
Notes_clear(Notes *self)
{
    Py_CLEAR(self->entries);
    return 0;
}

static void
Notes_dealloc(Notes *self)
{
    PyObject_GC_UnTrack(self);
    Notes_clear(self);
    Py_XDECREF(self->last);
    Py_XDECREF(self->before);
    Py_XDECREF(self->behind);
    PyMem_Free(self->times);
    PyMem_Free(self->pieces);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* Whatever a subclass is made of: it has an `__init__` of its own. */
static PyObject *
Notes_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    return type->tp_alloc(type, 0);
}

static int
append(Notes *self, int64_t at_ns, PyObject *body)
{
    if (self->entries == NULL && (self->entries = PyList_New(0)) == NULL) {
        return -1;
    }
    PyObject *at = PyLong_FromLongLong(at_ns);
    if (at == NULL) {
        return -1;
    }
    int failed = PyList_Append(self->entries, at);
    Py_DECREF(at);
    if (!failed && PyList_Append(self->entries, body) < 0) {
        PyList_SetSlice(self->entries, PyList_GET_SIZE(self->entries) - 1,
                        PyList_GET_SIZE(self->entries), NULL);
        failed = -1;
    }
    return failed;
}

/* The pieces so far become an entry: what comes next is of another shape, or they are taken. */
static int
flush(Notes *self)
{
    if (self->count == 0) {
        return 0;
    }
    int64_t at_ns = self->times[0];
    PyObject *body;
    if (self->count == 1) {
        body = join(self->before, self->pieces, self->pieces_size - 1, self->behind);
        if (body == NULL) {
            return -1;
        }
    }
    else {
        Alike *alike = PyObject_New(Alike, &Alike_Type);
        if (alike == NULL) {
            return -1;
        }
        alike->before = Py_NewRef(self->before);
        alike->behind = Py_NewRef(self->behind);
        alike->times = self->times;
        alike->pieces = self->pieces;
        alike->count = self->count;
        alike->position = alike->offset = 0;
        alike->pieces_size = self->pieces_size;
        alike->is_ascii = self->is_ascii;
        self->times = NULL;
        self->pieces = NULL;
        self->times_room = self->pieces_room = 0;
        body = (PyObject *)alike;
    }
    self->count = self->pieces_size = 0;
    self->is_ascii = 1;
    int failed = append(self, at_ns, body);
    Py_DECREF(body);
    return failed;
}

/* How long the piece of a chunk of this shape is; -1 for any other chunk. */
static Py_ssize_t
piece_size(Notes *self, const char *data, Py_ssize_t size)
{
    if (self->before == NULL) {
        return -1;
    }
    Py_ssize_t front = PyBytes_GET_SIZE(self->before), back = PyBytes_GET_SIZE(self->behind);
    Py_ssize_t inside = size - front - back;
    if (inside <= 0 || inside > MAX_PIECE_BYTES
        || memcmp(data, PyBytes_AS_STRING(self->before), front) != 0
        || memcmp(data + size - back, PyBytes_AS_STRING(self->behind), back) != 0) {
        return -1;
    }
    return kinds_of(data + front, inside) & UNSAFE ? -1 : inside;
}

/* A shape that this chunk and the one before have in common, up to the quotes around what differs.
   Only what is wholly the same is left out of the notes, so a wrong guess costs nothing but time.
   -1 on failure. */
static int
guess(Notes *self, PyObject *body)
{
    PyObject *last = self->last;
    self->last = Py_NewRef(body);
    if (last == NULL) {
        return 0;
    }
    const char *a = PyBytes_AS_STRING(last), *b = PyBytes_AS_STRING(body);
    Py_ssize_t a_size = PyBytes_GET_SIZE(last), b_size = PyBytes_GET_SIZE(body);
    Py_ssize_t common = a_size < b_size ? a_size : b_size, front = 0, back = 0;
    while (front < common && a[front] == b[front]) {
        front++;
    }
    while (front > 0 && b[front - 1] != '"') {
        front--;
    }
    while (back < common - front && a[a_size - back - 1] == b[b_size - back - 1]) {
        back++;
    }
    while (back > 0 && b[b_size - back] != '"') {
        back--;
    }
    Py_DECREF(last);
    if (front == 0 || back == 0) {
        self->tries++;
        return 0;
    }
    if (flush(self) < 0) {
        return -1;
    }
    PyObject *before = PyBytes_FromStringAndSize(b, front);
    PyObject *behind = PyBytes_FromStringAndSize(b + b_size - back, back);
    if (before == NULL || behind == NULL) {
        Py_XDECREF(before);
        Py_XDECREF(behind);
        return -1;
    }
    Py_XSETREF(self->before, before);
    Py_XSETREF(self->behind, behind);
    self->tries++;
    return 0;
}

static int
grow(void **array, Py_ssize_t *room, Py_ssize_t need, Py_ssize_t item_size, Py_ssize_t least)
{
    if (need <= *room) {
        return 0;
    }
    Py_ssize_t more = *room * 2 > need ? *room * 2 : need;
    more = more > least ? more : least;
    void *larger = PyMem_Realloc(*array, more * item_size);
    if (larger == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    *array = larger;
    *room = more;
    return 0;
}

static int
append_piece(Notes *self, int64_t at_ns, const char *piece, Py_ssize_t size)
{
    if (grow((void **)&self->times, &self->times_room, self->count + 1, sizeof(int64_t), 8) < 0
        || grow((void **)&self->pieces, &self->pieces_room, self->pieces_size + size + 1, 1, 64)
               < 0) {
        return -1;
    }
    self->times[self->count++] = at_ns;
    memcpy(self->pieces + self->pieces_size, piece, size);
    self->pieces[self->pieces_size + size] = '\n';
    self->pieces_size += size + 1;
    self->is_ascii &= !(kinds_of(piece, size) & WIDE);
    return 0;
}

/* Whether there is room for so many bytes, or could be made; -1 on failure. */
static int
has_room(Notes *self, Py_ssize_t need)
{
    if (self->room_bytes >= need) {
        return 1;
    }
    PyObject *size = PyLong_FromSsize_t(need);
    if (size == NULL) {
        return -1;
    }
    PyObject *made = PyObject_CallMethodOneArg((PyObject *)self, str_make_room, size);
    Py_DECREF(size);
    if (made == NULL) {
        return -1;
    }
    int has = PyObject_IsTrue(made);
    Py_DECREF(made);
    return has;
}

/* Note a chunk of an open stream. 1 if it was noted, at `*at_ns`; 0 if there is no room for it; -1
   on failure. */
static int
note_chunk(Notes *self, PyObject *body, int64_t *at_ns)
{
    const char *data = PyBytes_AS_STRING(body);
    Py_ssize_t size = PyBytes_GET_SIZE(body);
    Py_ssize_t piece = piece_size(self, data, size);
    if (piece < 0 && self->tries < MAX_TRIES && size <= MAX_SHAPE_BYTES) {
        if (guess(self, body) < 0) {
            return -1;
        }
        piece = piece_size(self, data, size);
    }
    Py_ssize_t need = piece < 0 ? size + ENTRY_BYTES : 2 * piece + PIECE_BYTES;
    int has = has_room(self, need);
    if (has <= 0) {
        return has;
    }
    *at_ns = now_ns();
    int failed;
    if (piece < 0) {
        failed = flush(self) < 0 ? -1 : append(self, *at_ns, body);
    }
    else {
        failed = append_piece(self, *at_ns, data + PyBytes_GET_SIZE(self->before), piece);
        if (self->last != NULL) {
            Py_CLEAR(self->last);
        }
    }
    if (failed) {
        return -1;
    }
    self->room_bytes -= need;
    return 1;
}

static PyObject *
Notes_note(Notes *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "note() takes at_ns and body");
        return NULL;
    }
    long long at_ns = PyLong_AsLongLong(args[0]);
    if ((at_ns == -1 && PyErr_Occurred()) || flush(self) < 0 || append(self, at_ns, args[1]) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static void
add_stall(Notes *self, long long stall_ns)
{
    self->stall_ns += stall_ns;
    if (stall_ns > self->longest_stall_ns) {
        self->longest_stall_ns = stall_ns;
    }
}

static PyObject *
Notes_sent(Notes *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 2) {
        PyErr_SetString(PyExc_TypeError, "sent() takes at_ns, sent_ns and is_noted");
        return NULL;
    }
    long long at_ns = PyLong_AsLongLong(args[0]), sent_ns = PyLong_AsLongLong(args[1]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    add_stall(self, sent_ns - at_ns);
    Py_RETURN_NONE;
}

static PyObject *
Notes_last_noted(Notes *self, PyObject *Py_UNUSED(ignored))
{
    if (self->count || self->entries == NULL || PyList_GET_SIZE(self->entries) == 0) {
        Py_RETURN_NONE;
    }
    return Py_NewRef(PyList_GET_ITEM(self->entries, PyList_GET_SIZE(self->entries) - 1));
}

static PyObject *
Notes_take(Notes *self, PyObject *Py_UNUSED(ignored))
{
    if (flush(self) < 0) {
        return NULL;
    }
    PyObject *entries = self->entries;
    self->entries = NULL;
    self->tries = 0;
    return entries == NULL ? PyTuple_New(0) : entries;
}

static PyMethodDef Notes_methods[] = {
    {"note", (PyCFunction)(void (*)(void))Notes_note, METH_FASTCALL, NULL},
    {"sent", (PyCFunction)(void (*)(void))Notes_sent, METH_FASTCALL, NULL},
    {"last_noted", (PyCFunction)Notes_last_noted, METH_NOARGS, NULL},
    {"take", (PyCFunction)Notes_take, METH_NOARGS, NULL},
    {NULL},
};

static PyMemberDef Notes_members[] = {
    {"room_bytes", T_PYSSIZET, offsetof(Notes, room_bytes), 0, NULL},
    {"stall_ns", T_LONGLONG, offsetof(Notes, stall_ns), 0, NULL},
    {"longest_stall_ns", T_LONGLONG, offsetof(Notes, longest_stall_ns), 0, NULL},
    {NULL},
};

static PyTypeObject Notes_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "streamtrace.speedups.Notes",
    .tp_basicsize = sizeof(Notes),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = Notes_new,
    .tp_dealloc = (destructor)Notes_dealloc,
    .tp_traverse = (traverseproc)Notes_traverse,
    .tp_clear = (inquiry)Notes_clear,
    .tp_methods = Notes_methods,
    .tp_members = Notes_members,
};

/* --- Sender: `send`, as the app gets it --------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *send;         /* the server's */
    PyObject *path;         /* an HttpPath: for all but the chunks of bytes of an open stream */
    PyObject *exchange;
    PyObject *shut;         /* the tap where there is no open stream */
    Notes *notes;           /* those of the stream; NULL where none is open */
    vectorcallfunc vectorcall;
} Sender;

enum state { UNTOUCHED, NOTED, UNUSUAL, UNNOTED, DONE };

/* What `send` returns: a coroutine in all but name. */
typedef struct {
    PyObject_HEAD
    Sender *sender;
    PyObject *message;      /* until it is begun */
    PyObject *inner;        /* what is awaited, from then on */
    Notes *notes;
    int64_t at_ns;
    enum state state;
    char is_tracked;
} Sending;

static PyTypeObject Sender_Type;
static PyTypeObject Sending_Type;

#define MAX_SPARE 64
static Sending *spare[MAX_SPARE];
static int spares;

static int
Sender_traverse(Sender *self, visitproc visit, void *arg)
{
    Py_VISIT(self->send);
    Py_VISIT(self->path);
    Py_VISIT(self->exchange);
    Py_VISIT(self->shut);
    Py_VISIT(self->notes);
    return 0;
}

static int
Sender_clear(Sender *self)
{
    Py_CLEAR(self->send);
    Py_CLEAR(self->path);
    Py_CLEAR(self->exchange);
    Py_CLEAR(self->shut);
    Py_CLEAR(self->notes);
    return 0;
}

static void
Sender_dealloc(Sender *self)
{
    PyObject_GC_UnTrack(self);
    Sender_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *
Sender_call(PyObject *op, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    if (PyVectorcall_NARGS(nargsf) != 1 || (kwnames != NULL && PyTuple_GET_SIZE(kwnames))) {
        PyErr_SetString(PyExc_TypeError, "send() takes one message");
        return NULL;
    }
    Sending *sending;
    if (spares) {
        sending = spare[--spares];
        _Py_NewReference((PyObject *)sending);
    }
    else {
        sending = PyObject_GC_New(Sending, &Sending_Type);
        if (sending == NULL) {
            return NULL;
        }
    }
    sending->sender = (Sender *)Py_NewRef(op);
    sending->message = Py_NewRef(args[0]);
    sending->inner = NULL;
    sending->notes = NULL;
    sending->state = UNTOUCHED;
    sending->is_tracked = 0;
    return (PyObject *)sending;
}

static PyObject *
Sender_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"send", "path", "exchange", "shut", NULL};
    PyObject *send, *path, *exchange, *shut;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOO", names, &send, &path, &exchange, &shut)) {
        return NULL;
    }
    Sender *self = (Sender *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->send = Py_NewRef(send);
        self->path = Py_NewRef(path);
        self->exchange = Py_NewRef(exchange);
        self->shut = Py_NewRef(shut);
        self->vectorcall = Sender_call;
    }
    return (PyObject *)self;
}

/* By these, Python's own checks take a callable for `async def` (inspect.markcoroutinefunction; up to
   Python 3.11 asyncio's). Their values are looked up when somebody asks. */
static const char *const MARKERS[][3] = {
    {"asyncio.coroutines", "_is_coroutine", "_is_coroutine"},
    {"inspect", "_is_coroutine_mark", "_is_coroutine_marker"}, /* the latter in Python 3.12.1 */
};

static PyObject *
Sender_marker(PyObject *Py_UNUSED(self), void *closure)
{
    const char *const *marker = closure;
    PyObject *module = PyImport_ImportModule(marker[0]);
    PyObject *value = module == NULL ? NULL : PyObject_GetAttrString(module, marker[1]);
    if (value == NULL && module != NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        value = PyObject_GetAttrString(module, marker[2]);
    }
    Py_XDECREF(module);
    return value;
}

static PyGetSetDef Sender_getset[] = {
    {"_is_coroutine", Sender_marker, NULL, NULL, (void *)MARKERS[0]},
    {"_is_coroutine_marker", Sender_marker, NULL, NULL, (void *)MARKERS[1]},
    {NULL},
};

static PyMemberDef Sender_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Sender, vectorcall), READONLY, NULL},
    {NULL},
};

static PyTypeObject Sender_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "streamtrace.speedups.Sender",
    .tp_basicsize = sizeof(Sender),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_vectorcall_offset = offsetof(Sender, vectorcall),
    .tp_call = PyVectorcall_Call,
    .tp_new = Sender_new,
    .tp_dealloc = (destructor)Sender_dealloc,
    .tp_traverse = (traverseproc)Sender_traverse,
    .tp_clear = (inquiry)Sender_clear,
    .tp_members = Sender_members,
    .tp_getset = Sender_getset,
};

/* --- Sending: the message on its way ------------------------------------------------------------ */

static int
Sending_traverse(Sending *self, visitproc visit, void *arg)
{
    Py_VISIT(self->sender);
    Py_VISIT(self->message);
    Py_VISIT(self->inner);
    Py_VISIT(self->notes);
    return 0;
}

static int
Sending_clear(Sending *self)
{
    Py_CLEAR(self->sender);
    Py_CLEAR(self->message);
    Py_CLEAR(self->inner);
    Py_CLEAR(self->notes);
    self->state = DONE;
    return 0;
}

/* It is over, with or without an exception, which stays as it is. */
static void
finish(Sending *self)
{
    enum state state = self->state;
    self->state = DONE;
    if (state == NOTED) {
        add_stall(self->notes, now_ns() - self->at_ns);
        Py_CLEAR(self->notes);
        if (!PyErr_Occurred() || !PyErr_ExceptionMatches(PyExc_OSError)) {
            Py_CLEAR(self->inner);
            return;
        }
    }
    Py_CLEAR(self->inner);
    if (state == UNTOUCHED || state == UNNOTED) {
        return;
    }
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    Sender *sender = self->sender;
    if (state == NOTED) { /* the client has left */
        PyObject *at = PyLong_FromLongLong(self->at_ns);
        if (at == NULL || PyObject_SetAttr(sender->exchange, str_disconnected_ns, at) < 0) {
            PyErr_WriteUnraisable(sender->path);
        }
        Py_XDECREF(at);
    }
    else { /* a stream may have begun or ended */
        PyObject *tap = PyObject_GetAttr(sender->path, str_tap);
        if (tap == NULL) {
            PyErr_WriteUnraisable(sender->path);
        }
        else if (tap == sender->shut || !PyObject_TypeCheck(tap, &Notes_Type)) {
            Py_CLEAR(sender->notes);
            Py_DECREF(tap);
        }
        else {
            Py_XSETREF(sender->notes, (Notes *)tap);
        }
    }
    PyErr_Restore(type, value, traceback);
}

static void
Sending_dealloc(Sending *self)
{
    PyObject_GC_UnTrack(self);
    if (self->state == UNTOUCHED || self->state == NOTED) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        if (self->state == UNTOUCHED
            && PyErr_WarnEx(PyExc_RuntimeWarning, "coroutine 'observed_send' was never awaited", 1)
                   < 0) {
            PyErr_WriteUnraisable(NULL);
        }
        finish(self);
        PyErr_Restore(type, value, traceback);
    }
    Sending_clear(self);
    if (spares < MAX_SPARE) {
        spare[spares++] = self;
    }
    else {
        PyObject_GC_Del(self);
    }
}

/* The iterator of an awaitable, as `await` asks for it. Takes the reference. */
static PyObject *
iterator_of(PyObject *awaitable)
{
    if (awaitable == NULL || PyCoro_CheckExact(awaitable) || PyGen_CheckExact(awaitable)) {
        return awaitable; /* a generator: that of types.coroutine */
    }
    PyAsyncMethods *as_async = Py_TYPE(awaitable)->tp_as_async;
    PyObject *iterator = NULL;
    if (as_async == NULL || as_async->am_await == NULL) {
        PyErr_Format(PyExc_TypeError, "object %.100s can't be used in 'await' expression",
                     Py_TYPE(awaitable)->tp_name);
    }
    else {
        iterator = as_async->am_await(awaitable);
    }
    Py_DECREF(awaitable);
    return iterator;
}

/* The first step: note the chunk, and send it on. -1 on failure. */
static int
begin(Sending *self)
{
    Sender *sender = self->sender;
    Notes *notes = sender->notes;
    PyObject *message = self->message;
    if (sender->send == NULL || sender->path == NULL) { /* taken apart by the garbage collector */
        PyErr_SetString(PyExc_RuntimeError, "the request is gone");
        return -1;
    }
    self->state = UNUSUAL;
    if (notes != NULL && PyDict_CheckExact(message)) {
        PyObject *body = PyDict_GetItemWithError(message, str_body);
        if (body != NULL && PyBytes_CheckExact(body)
            && PyDict_GetItemWithError(message, str_more_body) == Py_True) {
            int noted = note_chunk(notes, body, &self->at_ns);
            if (noted > 0) {
                self->state = NOTED;
                self->notes = (Notes *)Py_NewRef(notes);
            }
            else if (noted < 0) {
                self->state = UNNOTED;
                PyErr_WriteUnraisable(sender->path);
            }
        }
        PyErr_Clear();
    }
    PyObject *awaitable = self->state == UNUSUAL
        ? PyObject_CallMethodOneArg(sender->path, str_send_unusual, message)
        : PyObject_CallOneArg(sender->send, message);
    Py_CLEAR(self->message);
    self->inner = iterator_of(awaitable);
    return self->inner == NULL ? -1 : 0;
}

static PySendResult
Sending_am_send(Sending *self, PyObject *arg, PyObject **result)
{
    *result = NULL;
    if (self->state == DONE) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
        return PYGEN_ERROR;
    }
    if (self->state == UNTOUCHED && begin(self) < 0) {
        finish(self);
        return PYGEN_ERROR;
    }
    PyObject *inner = Py_NewRef(self->inner);
    PySendResult sent = PyIter_Send(inner, arg, result);
    Py_DECREF(inner);
    if (sent == PYGEN_NEXT) { /* it waits: from here on, it may be part of a cycle */
        if (!self->is_tracked) {
            self->is_tracked = 1;
            PyObject_GC_Track(self);
        }
        return sent;
    }
    finish(self);
    return sent;
}

/* The result of a step, as a method tells it. */
static PyObject *
told(PySendResult sent, PyObject *result)
{
    if (sent == PYGEN_RETURN) {
        if (result == Py_None) {
            PyErr_SetNone(PyExc_StopIteration);
        }
        else {
            PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, result);
            if (stop != NULL) {
                PyErr_SetObject(PyExc_StopIteration, stop);
                Py_DECREF(stop);
            }
        }
        Py_CLEAR(result);
    }
    return result;
}

static PyObject *
Sending_send(Sending *self, PyObject *arg)
{
    PyObject *result;
    PySendResult sent = Sending_am_send(self, arg, &result);
    return told(sent, result);
}

static PyObject *
Sending_iternext(Sending *self)
{
    return Sending_send(self, Py_None);
}

static PyObject *
as_exception(PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *type = args[0], *value = nargs > 1 ? args[1] : Py_None, *exception;
    if (PyExceptionInstance_Check(type)) {
        exception = Py_NewRef(type);
    }
    else if (PyExceptionInstance_Check(value)) {
        exception = Py_NewRef(value);
    }
    else {
        exception = value == Py_None ? PyObject_CallNoArgs(type) : PyObject_CallOneArg(type, value);
    }
    if (exception != NULL && !PyExceptionInstance_Check(exception)) {
        PyErr_SetString(PyExc_TypeError, "throw() takes an exception");
        Py_CLEAR(exception);
    }
    if (exception != NULL && nargs > 2 && args[2] != Py_None
        && PyException_SetTraceback(exception, args[2]) < 0) {
        Py_CLEAR(exception);
    }
    return exception;
}

static PyObject *
Sending_throw(Sending *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 3) {
        PyErr_SetString(PyExc_TypeError, "throw() takes one to three arguments");
        return NULL;
    }
    PyObject *exception = as_exception(args, nargs);
    if (exception == NULL) {
        return NULL;
    }
    PyObject *inner = Py_XNewRef(self->inner), *result = NULL, *throw = NULL;
    if (self->state == DONE) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
    }
    else if (inner != NULL && (throw = PyObject_GetAttr(inner, str_throw)) != NULL) {
        result = PyObject_CallOneArg(throw, exception);
    }
    else { /* not begun, or an iterator that takes none */
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
    }
    Py_XDECREF(throw);
    Py_XDECREF(inner);
    Py_DECREF(exception);
    if (result == NULL && self->state != DONE) {
        finish(self);
    }
    return result;
}

static PyObject *
Sending_close(Sending *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *inner = Py_XNewRef(self->inner), *closed = NULL;
    int failed = 0;
    if (self->state != DONE && inner != NULL) {
        closed = PyObject_CallMethodNoArgs(inner, str_close);
        if (closed == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)
            && !PyObject_HasAttr(inner, str_close)) {
            PyErr_Clear(); /* an iterator that needs none */
        }
        else {
            failed = closed == NULL;
        }
    }
    Py_XDECREF(inner);
    Py_XDECREF(closed);
    if (self->state != DONE) {
        finish(self);
    }
    if (failed) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
itself(PyObject *self)
{
    return Py_NewRef(self);
}

static PyMethodDef Sending_methods[] = {
    {"send", (PyCFunction)Sending_send, METH_O, NULL},
    {"throw", (PyCFunction)(void (*)(void))Sending_throw, METH_FASTCALL, NULL},
    {"close", (PyCFunction)Sending_close, METH_NOARGS, NULL},
    {NULL},
};

static PyAsyncMethods Sending_as_async = {
    .am_await = itself,
    .am_send = (sendfunc)Sending_am_send,
};

static PyTypeObject Sending_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "streamtrace.speedups.Sending",
    .tp_basicsize = sizeof(Sending),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)Sending_dealloc,
    .tp_traverse = (traverseproc)Sending_traverse,
    .tp_clear = (inquiry)Sending_clear,
    .tp_iter = itself,
    .tp_iternext = (iternextfunc)Sending_iternext,
    .tp_methods = Sending_methods,
    .tp_as_async = &Sending_as_async,
};

/* --- gaps --------------------------------------------------------------------------------------- */

/* As `count_gaps` in core/gaps.py, where it is described. */
static PyObject *
count_gaps(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 4 || !PyList_Check(args[0]) || !PyTuple_Check(args[2]) || !PyList_Check(args[3])
        || PyTuple_GET_SIZE(args[2]) >= MAX_BUCKETS
        || PyList_GET_SIZE(args[3]) != PyTuple_GET_SIZE(args[2]) + 1) {
        PyErr_SetString(PyExc_TypeError,
                        "count_gaps() takes times, before_ns, edges_ns, and a count per bucket");
        return NULL;
    }
    Py_ssize_t count = PyList_GET_SIZE(args[0]), edge_count = PyTuple_GET_SIZE(args[2]);
    long long edges[MAX_BUCKETS], found[MAX_BUCKETS] = {0}, longest_ns = 0;
    for (Py_ssize_t i = 0; i < edge_count; i++) {
        edges[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(args[2], i));
    }
    long long before_ns = PyLong_AsLongLong(args[1]);
    Py_ssize_t longest = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        long long at_ns = PyLong_AsLongLong(PyList_GET_ITEM(args[0], i));
        long long gap_ns = at_ns - before_ns;
        before_ns = at_ns;
        if (gap_ns > longest_ns) {
            longest_ns = gap_ns;
            longest = i;
        }
        if (gap_ns > 0) {
            Py_ssize_t bucket = 0;
            while (bucket < edge_count && edges[bucket] < gap_ns) {
                bucket++;
            }
            found[bucket]++;
        }
    }
    if (PyErr_Occurred()) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i <= edge_count; i++) {
        if (found[i]) {
            long long so_far = PyLong_AsLongLong(PyList_GET_ITEM(args[3], i));
            PyObject *sum = PyErr_Occurred() ? NULL : PyLong_FromLongLong(so_far + found[i]);
            if (sum == NULL || PyList_SetItem(args[3], i, sum) < 0) {
                return NULL;
            }
        }
    }
    return Py_BuildValue("(Ln)", longest_ns, longest);
}

static PyObject *
set_clock(PyObject *Py_UNUSED(module), PyObject *clock)
{
    Py_XSETREF(clock_of_tests, clock == Py_None ? NULL : Py_NewRef(clock));
    Py_RETURN_NONE;
}

/* --- the module --------------------------------------------------------------------------------- */

static PyMethodDef functions[] = {
    {"count_gaps", (PyCFunction)(void (*)(void))count_gaps, METH_FASTCALL, NULL},
    {"set_clock", set_clock, METH_O, NULL},
    {NULL},
};

static struct PyModuleDef speedups = {
    PyModuleDef_HEAD_INIT,
    .m_name = "streamtrace.speedups",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC
PyInit_speedups(void)
{
    static const char *const off[] = {"", "0", "false", "no", "off"};
    const char *pure = getenv("STREAMTRACE_PURE_PYTHON");
    int is_off = pure == NULL;
    for (size_t i = 0; !is_off && i < sizeof off / sizeof *off; i++) {
        is_off = strcmp(pure, off[i]) == 0;
    }
    if (!is_off) {
        PyErr_SetString(PyExc_ImportError, "STREAMTRACE_PURE_PYTHON is set");
        return NULL;
    }
    static const struct {
        PyObject **variable;
        const char *text;
    } names[] = {
        {&str_body, "body"},           {&str_more_body, "more_body"},
        {&str_make_room, "make_room"}, {&str_send_unusual, "send_unusual"},
        {&str_tap, "tap"},             {&str_disconnected_ns, "disconnected_ns"},
        {&str_throw, "throw"},         {&str_close, "close"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if ((*names[i].variable = PyUnicode_InternFromString(names[i].text)) == NULL) {
            return NULL;
        }
    }
    PyTypeObject *types[] = {&Alike_Type, &Notes_Type, &Sender_Type, &Sending_Type};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (PyType_Ready(types[i]) < 0) {
            return NULL;
        }
    }
    PyObject *module = PyModule_Create(&speedups);
    if (module == NULL || PyModule_AddObjectRef(module, "Alike", (PyObject *)&Alike_Type) < 0
        || PyModule_AddObjectRef(module, "Notes", (PyObject *)&Notes_Type) < 0
        || PyModule_AddObjectRef(module, "Sender", (PyObject *)&Sender_Type) < 0
        || PyModule_AddIntMacro(module, ENTRY_BYTES) < 0
        || PyModule_AddIntMacro(module, MAX_PIECE_BYTES) < 0) {
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}
