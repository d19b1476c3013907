/* The clock, as tests may set it: a time that cannot be told is 0. */

#include "speedups.h"

PyObject *st_clock_of_tests;

int64_t
st_told_ns(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *told = PyObject_CallNoArgs(st_clock_of_tests);
    int64_t at_ns = told == NULL ? 0 : PyLong_AsLongLong(told);
    Py_XDECREF(told);
    PyErr_Restore(type, value, traceback);
    return at_ns;
}

static PyObject *
set_clock(PyObject *Py_UNUSED(module), PyObject *clock)
{
    Py_XSETREF(st_clock_of_tests, clock == Py_None ? NULL : Py_NewRef(clock));
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"set_clock", set_clock, METH_O, NULL},
    {NULL},
};

int
st_add_clock(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
