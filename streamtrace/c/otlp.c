/* Attributes as OTLP, as `encode_attributes_in_python` in sinks/otlp.py writes them. */

#include "speedups.h"

#define KEY 0x0a          /* of a KeyValue */
#define VALUE 0x12
#define ARRAY_VALUE 0x0a  /* of an ArrayValue */
#define STRING 0x0a       /* of an AnyValue */
#define BOOL 0x10
#define INT 0x18
#define DOUBLE 0x21
#define ARRAY 0x2a

typedef struct {
    char *bytes;
    Py_ssize_t size;
    Py_ssize_t room;
} Buffer;

/* Where so many more bytes go; NULL on failure. */
static char *
extend(Buffer *buffer, Py_ssize_t size)
{
    if (buffer->size + size > buffer->room) {
        Py_ssize_t room = buffer->room * 2;
        room = room > buffer->size + size ? room : buffer->size + size;
        char *larger = PyMem_Realloc(buffer->bytes, room);
        if (larger == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        buffer->bytes = larger;
        buffer->room = room;
    }
    buffer->size += size;
    return buffer->bytes + buffer->size - size;
}

static int
add(Buffer *buffer, const void *data, Py_ssize_t size)
{
    char *to = extend(buffer, size);
    if (to == NULL) {
        return -1;
    }
    memcpy(to, data, size);
    return 0;
}

static int
add_byte(Buffer *buffer, unsigned char byte)
{
    return add(buffer, &byte, 1);
}

/* Seven bits to a byte, the lowest first; all but the last have the highest bit set. */
static int
varint(unsigned char *to, uint64_t number)
{
    int size = 0;
    for (; number > 0x7f; number >>= 7) {
        to[size++] = 0x80 | (number & 0x7f);
    }
    to[size++] = (unsigned char)number;
    return size;
}

/* A field of any length is written behind its tag, and its length put in between when it is known:
   most lengths are one byte, for which there is a place already. */
static Py_ssize_t
begin(Buffer *buffer, unsigned char tag)
{
    return add_byte(buffer, tag) < 0 || add_byte(buffer, 0) < 0 ? -1 : buffer->size;
}

static int
end(Buffer *buffer, Py_ssize_t start)
{
    unsigned char length[10];
    Py_ssize_t size = buffer->size - start;
    int more = varint(length, size) - 1;
    if (more && extend(buffer, more) == NULL) {
        return -1;
    }
    if (more) {
        memmove(buffer->bytes + start + more, buffer->bytes + start, size);
    }
    memcpy(buffer->bytes + start - 1, length, more + 1);
    return 0;
}

static int
add_text(Buffer *buffer, unsigned char tag, PyObject *text)
{
    Py_ssize_t start = begin(buffer, tag);
    if (start < 0) {
        return -1;
    }
    if (PyUnicode_IS_ASCII(text)) {
        return add(buffer, PyUnicode_DATA(text), PyUnicode_GET_LENGTH(text)) < 0
            ? -1
            : end(buffer, start);
    }
    PyObject *encoded = PyUnicode_AsUTF8String(text); /* not kept by the text */
    int failed = encoded == NULL
        || add(buffer, PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded)) < 0;
    Py_XDECREF(encoded);
    return failed ? -1 : end(buffer, start);
}

static int
add_double(Buffer *buffer, double number)
{
    uint64_t bits;
    unsigned char data[9] = {DOUBLE};
    memcpy(&bits, &number, sizeof bits);
    for (int i = 0; i < 8; i++) {
        data[1 + i] = (unsigned char)(bits >> 8 * i);
    }
    return add(buffer, data, sizeof data);
}

/* An AnyValue, under this tag. */
static int
add_value(Buffer *buffer, unsigned char tag, PyObject *value)
{
    Py_ssize_t start = begin(buffer, tag);
    if (start < 0) {
        return -1;
    }
    int failed = 0;
    if (PyUnicode_Check(value)) {
        failed = add_text(buffer, STRING, value);
    }
    else if (PyBool_Check(value)) {
        failed = add_byte(buffer, BOOL) < 0 || add_byte(buffer, value == Py_True) < 0;
    }
    else if (PyLong_Check(value)) {
        unsigned char data[11] = {INT};
        long long number = PyLong_AsLongLong(value);
        failed = (number == -1 && PyErr_Occurred())
            || add(buffer, data, 1 + varint(data + 1, (uint64_t)number)) < 0;
    }
    else if (PyFloat_Check(value)) {
        failed = add_double(buffer, PyFloat_AS_DOUBLE(value));
    }
    else if (PyList_Check(value) || PyTuple_Check(value)) {
        if (Py_EnterRecursiveCall(" in an attribute")) {
            return -1;
        }
        Py_ssize_t inside = begin(buffer, ARRAY);
        failed = inside < 0;
        for (Py_ssize_t i = 0; !failed && i < PySequence_Fast_GET_SIZE(value); i++) {
            failed = add_value(buffer, ARRAY_VALUE, PySequence_Fast_GET_ITEM(value, i));
        }
        failed = failed || end(buffer, inside) < 0;
        Py_LeaveRecursiveCall();
    }
    else {
        PyErr_Format(PyExc_TypeError, "an attribute of type %.100s cannot be encoded",
                     Py_TYPE(value)->tp_name);
        failed = 1;
    }
    return failed ? -1 : end(buffer, start);
}

static PyObject *
encode_attributes(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    long tag = nargs == 2 ? PyLong_AsLong(args[0]) : -1;
    if (tag < 1 || tag > 0x7f || !PyDict_CheckExact(args[1])) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_TypeError, "encode_attributes() takes a tag and a dict");
        }
        return NULL;
    }
    Buffer buffer = {PyMem_Malloc(1024), 0, 1024};
    if (buffer.bytes == NULL) {
        return PyErr_NoMemory();
    }
    PyObject *key, *value, *encoded = NULL;
    Py_ssize_t position = 0;
    int failed = 0;
    while (!failed && PyDict_Next(args[1], &position, &key, &value)) {
        Py_ssize_t start = begin(&buffer, (unsigned char)tag);
        failed = start < 0 || !PyUnicode_Check(key) || add_text(&buffer, KEY, key) < 0
            || add_value(&buffer, VALUE, value) < 0 || end(&buffer, start) < 0;
    }
    if (!failed) {
        encoded = PyBytes_FromStringAndSize(buffer.bytes, buffer.size);
    }
    else if (!PyErr_Occurred()) {
        PyErr_SetString(PyExc_TypeError, "names of attributes must be strings");
    }
    PyMem_Free(buffer.bytes);
    return encoded;
}

static PyMethodDef functions[] = {
    {"encode_attributes", (PyCFunction)(void (*)(void))encode_attributes, METH_FASTCALL, NULL},
    {NULL},
};

int
st_add_otlp(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
