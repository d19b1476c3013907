/* Sender: `send`, as the app gets it. To call it does nothing yet, as with any coroutine function. */

#include "speedups.h"

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
    return st_sending((Sender *)op, args[0]);
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

int
st_add_sender(PyObject *module)
{
    return PyModule_AddType(module, &Sender_Type);
}
