/* Notes: the times and bodies of chunks, until they are taken. Of chunks that are alike, what differs.

   Nothing is decoded here, only compared. Every chunk can be given back as it was. */

#include "speedups.h"

#define MAX_SHAPE_BYTES 4096
#define MAX_TRIES 16 /* shapes that are guessed until the notes are taken */

static PyObject *str_make_room;

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
    Notes *self = (Notes *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->is_ascii = 1;
    }
    return (PyObject *)self;
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

/* The pieces so far become an entry: what comes next is of another shape, or they are `taken`.

   A single one between two of other shapes becomes the chunk that it was, which is less to hold. */
static int
flush(Notes *self, int taken)
{
    if (self->count == 0) {
        return 0;
    }
    int64_t at_ns = self->times[0];
    PyObject *body;
    if (self->count == 1 && !taken) {
        body = st_join(self->before, self->pieces, self->pieces_size - 1, self->behind);
        if (body == NULL) {
            return -1;
        }
    }
    else {
        Alike *alike = PyObject_New(Alike, &st_Alike_Type);
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

/* How long the piece of a chunk of this shape is, and what is in it; -1 for any other chunk. */
static Py_ssize_t
piece_size(Notes *self, const char *data, Py_ssize_t size, int *kinds)
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
    *kinds = kinds_of(data + front, inside);
    return *kinds & UNSAFE ? -1 : inside;
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
    if (flush(self, 0) < 0) {
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

/* The array with room for so many items, or NULL; then the old one is as it was. */
static void *
with_room(void *array, Py_ssize_t *room, Py_ssize_t need, Py_ssize_t item_size, Py_ssize_t least)
{
    if (need <= *room) {
        return array;
    }
    Py_ssize_t more = *room * 2 > need ? *room * 2 : need;
    more = more > least ? more : least;
    void *larger = PyMem_Realloc(array, more * item_size);
    if (larger == NULL) {
        return PyErr_NoMemory();
    }
    *room = more;
    return larger;
}

static int
append_piece(Notes *self, int64_t at_ns, const char *piece, Py_ssize_t size, int kinds)
{
    int64_t *times = with_room(self->times, &self->times_room, self->count + 1, sizeof *times, 8);
    if (times == NULL) {
        return -1;
    }
    self->times = times;
    char *pieces = with_room(self->pieces, &self->pieces_room, self->pieces_size + size + 1, 1, 64);
    if (pieces == NULL) {
        return -1;
    }
    self->pieces = pieces;
    times[self->count++] = at_ns;
    memcpy(pieces + self->pieces_size, piece, size);
    pieces[self->pieces_size + size] = '\n';
    self->pieces_size += size + 1;
    self->is_ascii &= !(kinds & WIDE);
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

int
st_note_chunk(Notes *self, PyObject *body, int64_t *at_ns)
{
    const char *data = PyBytes_AS_STRING(body);
    Py_ssize_t size = PyBytes_GET_SIZE(body);
    int kinds = 0;
    Py_ssize_t piece = piece_size(self, data, size, &kinds);
    if (piece < 0 && self->tries < MAX_TRIES && size <= MAX_SHAPE_BYTES) {
        if (guess(self, body) < 0) {
            return -1;
        }
        piece = piece_size(self, data, size, &kinds);
    }
    Py_ssize_t need = piece < 0 ? size + ENTRY_BYTES : 2 * piece + PIECE_BYTES;
    int has = has_room(self, need);
    if (has <= 0) {
        return has;
    }
    *at_ns = st_now_ns();
    int failed;
    if (piece < 0) {
        failed = flush(self, 0) < 0 ? -1 : append(self, *at_ns, body);
    }
    else {
        failed = append_piece(self, *at_ns, data + PyBytes_GET_SIZE(self->before), piece, kinds);
        Py_CLEAR(self->last);
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
    if ((at_ns == -1 && PyErr_Occurred()) || flush(self, 0) < 0 || append(self, at_ns, args[1]) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

void
st_add_stall(Notes *self, long long stall_ns)
{
    if (stall_ns >= MIN_STALL_NS) {
        self->stall_ns += stall_ns;
        if (stall_ns > self->longest_stall_ns) {
            self->longest_stall_ns = stall_ns;
        }
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
    st_add_stall(self, sent_ns - at_ns);
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
    if (flush(self, 1) < 0) {
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

PyTypeObject st_Notes_Type = {
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

int
st_add_notes(PyObject *module)
{
    if ((str_make_room = PyUnicode_InternFromString("make_room")) == NULL
        || PyModule_AddIntMacro(module, ENTRY_BYTES) < 0
        || PyModule_AddIntMacro(module, MAX_PIECE_BYTES) < 0
        || PyModule_AddIntMacro(module, MIN_STALL_NS) < 0) {
        return -1;
    }
    return PyModule_AddType(module, &st_Notes_Type);
}
