/* Chunks that have all in common but the inside of one JSON string, to be read by one or by many. */

#include "speedups.h"

static PyObject *str_cast, *str_int64;

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

PyObject *
st_join(PyObject *before, const char *piece, Py_ssize_t size, PyObject *behind)
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
    PyObject *body = st_join(self->before, piece, end - piece, self->behind);
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

/* As a memoryview of int64: what is made of them is counted, and few are ever looked at. */
static PyObject *
times_view(const int64_t *times, Py_ssize_t count)
{
    PyObject *view = NULL;
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)times, count * sizeof *times);
    PyObject *plain = bytes == NULL ? NULL : PyMemoryView_FromObject(bytes);
    if (plain != NULL) {
        view = PyObject_CallMethodOneArg(plain, str_cast, str_int64);
    }
    Py_XDECREF(plain);
    Py_XDECREF(bytes);
    return view;
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
    PyObject *times = times_view(self->times + self->position, count);
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

PyTypeObject st_Alike_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "streamtrace.speedups.Alike",
    .tp_basicsize = sizeof(Alike),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)Alike_dealloc,
    .tp_methods = Alike_methods,
    .tp_members = Alike_members,
    .tp_as_sequence = &Alike_as_sequence,
};

int
st_add_alike(PyObject *module)
{
    if ((str_cast = PyUnicode_InternFromString("cast")) == NULL
        || (str_int64 = PyUnicode_InternFromString("q")) == NULL) {
        return -1;
    }
    return PyModule_AddType(module, &st_Alike_Type);
}
