import time

time.sleep(1.5)


async def arrives(context):
    return {"arrived": True}
