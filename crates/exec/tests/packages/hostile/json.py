"""Of the same name as a module of Python itself."""


async def whose(context):
    return {"whose": "hostile"}
